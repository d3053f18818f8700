//! Work that is divided between the threads of rayon's pool, and results that they write together.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::team::{at_once, has_helpers};

/// What is faster done by one thread than handed over to one that waits for it: so many products of numbers.
const SMALL: usize = 1 << 16;
/// What is faster done by one thread than handed over to one that has to be woken.
const SMALL_FOR_SLEEPERS: usize = 1 << 20;

/// How many threads share work of `products` products: those of the pool that the caller is in.
pub(crate) fn threads(products: usize) -> usize {
    let small = if has_helpers() { SMALL } else { SMALL_FOR_SLEEPERS };
    if products < small { 1 } else { rayon::current_num_threads().max(1) }
}

/// Into how many tasks work of so many products is divided: enough of them for a thread that comes late, and each large enough
/// for what a task costs by itself.
pub(crate) fn tasks(threads: usize, products: usize) -> usize {
    if threads < 2 { 1 } else { (products >> 19).clamp(2 * threads, 8 * threads) }
}

/// A thread keeps so many pieces of memory, and none of more numbers than these.
const KEPT: usize = 6;
const MOST_KEPT: usize = 1 << 17;

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Memory for what a task lays out, which holds any numbers: some that an earlier task of this thread gave to [`keep`], as asking for it
/// and writing zeros there takes as long as a small task.
pub(crate) fn scratch() -> Vec<f32> {
    SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps memory for the next task of this thread.
pub(crate) fn keep(memory: Vec<f32>) {
    SCRATCH.with_borrow_mut(|kept| {
        if kept.len() < KEPT && memory.capacity() <= MOST_KEPT {
            kept.push(memory);
        }
    });
}

/// Tasks are in so many parts at most, for as many threads.
const PARTS: usize = 16;

/// Calls `task` with each number below `count`, on up to `threads` threads. The caller's thread takes part. Each thread begins with a part
/// of its own, the same one each time, as what it wrote in the step before is near it; then it takes what the others have left: one
/// that wakes late costs nothing but its help.
pub(crate) fn divide(threads: usize, count: usize, task: &(impl Fn(usize) + Sync)) {
    if threads < 2 || count < 2 {
        (0..count).for_each(task);
        return;
    }
    let parts = threads.min(count).min(PARTS);
    let next: [AtomicUsize; PARTS] =
        std::array::from_fn(|at| AtomicUsize::new(part(count, parts, at.min(parts - 1)).start));
    at_once(threads.min(count), &|thread| {
        for own in 0..parts {
            let own = (thread + own) % parts;
            let end = part(count, parts, own).end;
            loop {
                let at = next[own].fetch_add(1, Ordering::Relaxed);
                if at >= end {
                    break;
                }
                task(at);
            }
        }
    });
}

/// Calls `work` with parts of `items`, each with as many elements as a multiple of `unit`, on as many threads as are worth it: a
/// thread is given about `least` elements or more. It is for numbers in a row, of which each thread gets its own piece of memory; `divide` is for
/// tasks of uneven length.
pub fn share<T: Send>(items: &mut [T], unit: usize, least: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let shares = (items.len() / least.max(1)).min(rayon::current_num_threads());
    if shares < 2 {
        return work(0, items);
    }
    let unit = unit.max(1);
    let (length, start) = (items.len(), Start(items.as_mut_ptr()));
    let part = length.div_ceil(shares).next_multiple_of(unit);
    divide(shares, length.div_ceil(part), &|at| {
        let first = at * part;
        // SAFETY: it is inside of `items`, which are borrowed; each part is called for once, and none overlaps with another.
        let own = unsafe { std::slice::from_raw_parts_mut(start.at(first), part.min(length - first)) };
        work(first, own);
    });
}

/// Where items begin that several threads write, each its own.
struct Start<T>(*mut T);

// SAFETY: what is made of it is for whoever makes it to keep apart; items go to other threads, as `T: Send` allows.
unsafe impl<T: Send> Sync for Start<T> {}

impl<T> Start<T> {
    /// # Safety
    /// `first` is inside of the items, or at their end.
    unsafe fn at(&self, first: usize) -> *mut T {
        // SAFETY: the caller says so.
        unsafe { self.0.add(first) }
    }
}

/// Part `at` of a range of `length` that is divided into `count` parts of nearly the same size.
pub(crate) fn part(length: usize, count: usize, at: usize) -> Range<usize> {
    let (each, more) = (length / count, length % count);
    let start = at * each + at.min(more);
    start..start + each + usize::from(at < more)
}

/// A result to which several threads write, each to places of its own.
pub(crate) struct Shared<'a> {
    start: *mut MaybeUninit<f32>,
    length: usize,
    borrowed: PhantomData<&'a mut [MaybeUninit<f32>]>,
}

// SAFETY: it is a borrowed slice of numbers; `part` asks its callers to keep out of each other's way.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// All of it.
    pub(crate) fn new(all: &'a mut [MaybeUninit<f32>]) -> Self {
        Self { start: all.as_mut_ptr(), length: all.len(), borrowed: PhantomData }
    }

    /// Some of it, side by side; panics where it is not inside.
    ///
    /// # Safety
    /// Nobody else has a part that overlaps with it at the same time.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the contract of the function")]
    pub(crate) unsafe fn part(&self, start: usize, length: usize) -> &mut [MaybeUninit<f32>] {
        assert!(start <= self.length && length <= self.length - start);
        // SAFETY: it is inside, and the caller alone has it.
        unsafe { self.part_inside(start, length) }
    }

    /// Panics where not all of some rows, of so many numbers each, is inside.
    #[inline(always)]
    pub(crate) fn has_rows(&self, start: usize, stride: usize, [rows, length]: [usize; 2]) {
        let last = stride.checked_mul(rows - 1).and_then(|last| last.checked_add(start));
        assert!(last.is_some_and(|last| last <= self.length && length <= self.length - last));
    }

    /// [`Shared::part`] without its question.
    ///
    /// # Safety
    /// As there, and it is inside.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the contract of the function")]
    pub(crate) unsafe fn part_inside(&self, start: usize, length: usize) -> &mut [MaybeUninit<f32>] {
        debug_assert!(start <= self.length && length <= self.length - start);
        // SAFETY: it is inside of the slice that is borrowed, and the caller alone has it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }
}

/// From about so many bytes on the C library's allocator gives memory back to the system when it is freed: every page of the
/// next one is made anew.
#[cfg(target_os = "linux")]
const GIVEN_BACK: usize = 16 << 20;

/// Asks for large pages for a large result: making small ones takes as long as a convolution that writes there.
#[cfg(target_os = "linux")]
fn with_large_pages(all: &mut [MaybeUninit<f32>]) {
    const PAGE: usize = 4096;
    let bytes = size_of_val(all);
    if bytes < GIVEN_BACK {
        return;
    }
    let start = all.as_mut_ptr().cast::<u8>();
    let skipped = start.addr().next_multiple_of(PAGE) - start.addr();
    let whole = (bytes - skipped) / PAGE * PAGE;
    // SAFETY: all of it is in memory that is borrowed here, and the advice changes nothing that is stored there. That a system
    // does not know the advice is no error of ours.
    unsafe {
        libc::madvise(start.add(skipped).cast(), whole, libc::MADV_HUGEPAGE);
    }
}

#[cfg(not(target_os = "linux"))]
fn with_large_pages(_all: &mut [MaybeUninit<f32>]) {}

/// A vector of `length` numbers that `fill` writes.
///
/// # Safety
/// `fill` has written each of them when it returns.
pub(crate) unsafe fn filled(length: usize, fill: impl FnOnce(&Shared<'_>)) -> Vec<f32> {
    let mut all = Vec::with_capacity(length);
    with_large_pages(&mut all.spare_capacity_mut()[..length]);
    fill(&Shared::new(&mut all.spare_capacity_mut()[..length]));
    // SAFETY: there is room for so many, and the caller says that all are written.
    unsafe { all.set_len(length) };
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_is_done_once() {
        let done: Vec<AtomicUsize> = (0..1000).map(|_| AtomicUsize::new(0)).collect();
        for threads in [1, 2, 5] {
            divide(threads, done.len(), &|at| {
                done[at].fetch_add(1, Ordering::Relaxed);
            });
        }
        assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 3));
    }

    #[test]
    fn parts_follow_each_other() {
        for (length, count) in [(0, 1), (3, 5), (10, 3), (12, 4)] {
            let parts: Vec<usize> = (0..count).flat_map(|at| part(length, count, at)).collect();
            assert_eq!(parts, (0..length).collect::<Vec<_>>());
        }
    }
}
