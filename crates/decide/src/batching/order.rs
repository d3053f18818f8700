//! In which order requests run: by priority, then the earliest deadline, then the order in which they came.

use std::collections::VecDeque;

/// Priorities that are told apart.
pub const LANES: usize = 4;

/// The lane of a priority, 0 first. 1 is the highest priority, and larger numbers are lower ones, which from 4 on are
/// alike. A request without a priority (0) is as one of priority 2, so that others can be put before and behind it.
pub fn lane(priority: u32) -> usize {
    match priority {
        1 => 0,
        0 | 2 => 1,
        3 => 2,
        _ => 3,
    }
}

/// Requests that wait, in order. `K` is a time: their deadline.
#[derive(Debug)]
pub struct Lanes<K, T> {
    lanes: [Lane<K, T>; LANES],
    count: usize,
}

#[derive(Debug)]
struct Lane<K, T> {
    /// Sorted by the deadline.
    entries: VecDeque<Entry<K, T>>,
    rows: usize,
}

#[derive(Debug)]
struct Entry<K, T> {
    due: K,
    rows: usize,
    item: T,
}

impl<K, T> Default for Lanes<K, T> {
    fn default() -> Self {
        let lanes = std::array::from_fn(|_| Lane { entries: VecDeque::new(), rows: 0 });
        Self { lanes, count: 0 }
    }
}

impl<K: Ord + Copy, T> Lanes<K, T> {
    /// Puts a request of `rows` in its place. Requests of one lane whose deadlines come in order, as those with one target do,
    /// go to the end without a search.
    pub fn push(&mut self, lane: usize, due: K, rows: usize, item: T) {
        let Some(lane) = self.lanes.get_mut(lane.min(LANES - 1)) else { return };
        let entry = Entry { due, rows, item };
        lane.rows += rows;
        self.count += 1;
        if lane.entries.back().is_none_or(|last| last.due <= due) {
            lane.entries.push_back(entry);
        } else {
            let position = lane.entries.partition_point(|other| other.due <= due);
            lane.entries.insert(position, entry);
        }
    }

    /// Rows that would run before a request of this lane and deadline.
    pub fn ahead(&self, lane: usize, due: K) -> usize {
        let lane = lane.min(LANES - 1);
        let before: usize = self.lanes.iter().take(lane).map(|lane| lane.rows).sum();
        before + self.lanes.get(lane).map_or(0, |lane| lane.ahead(due))
    }

    /// The request that runs next.
    pub fn front(&self) -> Option<&T> {
        self.lanes.iter().find_map(|lane| lane.entries.front()).map(|entry| &entry.item)
    }

    /// All that wait, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.lanes.iter().flat_map(|lane| &lane.entries).map(|entry| &entry.item)
    }

    /// Takes the request that runs next.
    pub fn pop(&mut self) -> Option<T> {
        let lane = self.lanes.iter_mut().find(|lane| !lane.entries.is_empty())?;
        let entry = lane.entries.pop_front()?;
        lane.rows -= entry.rows;
        self.count -= 1;
        Some(entry.item)
    }

    /// Takes those out of which `is_gone` says so, wherever they stand. The others keep their order.
    pub fn remove_if(&mut self, mut is_gone: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for lane in &mut self.lanes {
            let waiting = lane.entries.len();
            for _ in 0..waiting {
                let Some(entry) = lane.entries.pop_front() else { break };
                if is_gone(&entry.item) {
                    lane.rows -= entry.rows;
                    self.count -= 1;
                    removed.push(entry.item);
                } else {
                    lane.entries.push_back(entry);
                }
            }
        }
        removed
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Rows that wait.
    pub fn rows(&self) -> usize {
        self.lanes.iter().map(|lane| lane.rows).sum()
    }
}

impl<K: Ord + Copy, T> Lane<K, T> {
    /// Rows with a deadline up to `due`: the shorter side is added up.
    fn ahead(&self, due: K) -> usize {
        if self.entries.back().is_none_or(|last| last.due <= due) {
            return self.rows;
        }
        let position = self.entries.partition_point(|other| other.due <= due);
        if position <= self.entries.len() / 2 {
            self.entries.iter().take(position).map(|entry| entry.rows).sum()
        } else {
            self.rows - self.entries.iter().skip(position).map(|entry| entry.rows).sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_leaves_the_others_in_order() {
        let mut lanes = Lanes::default();
        for (number, lane) in [0, 1, 1, 2, 0, 1, 3].into_iter().enumerate() {
            lanes.push(lane, 10 - number, number + 1, number);
        }
        let before: Vec<_> = lanes.iter().copied().collect();
        assert_eq!(before, [4, 0, 5, 2, 1, 3, 6]);
        assert_eq!(lanes.remove_if(|number| number % 2 == 1), [5, 1, 3]);
        assert_eq!((lanes.len(), lanes.rows(), lanes.ahead(1, 8)), (4, 5 + 1 + 3 + 7, 5 + 1 + 3));
        assert!(lanes.remove_if(|_| false).is_empty());
        assert_eq!(std::iter::from_fn(|| lanes.pop()).collect::<Vec<_>>(), [4, 0, 2, 6]);
        assert_eq!((lanes.len(), lanes.rows()), (0, 0));
    }
}
