//! The latency target by now: what the router said last, else the flag. Where no router stands before the server, anybody
//! could send its header, and it is not looked at.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use stoker_edge::target;

/// What the router said is forgotten after so many seconds without it: then its table has no target any more, or nobody
/// comes through it.
const HEARD_FOR: u64 = 60;

/// The latency target.
#[derive(Debug)]
pub struct Target {
    flag: Option<Duration>,
    /// Requests come from a router, which strips its own headers from those of clients.
    behind_router: bool,
    began: Instant,
    /// Milliseconds in the upper half, and in the lower one when the router said so, in seconds after `began`. 0: it did not.
    heard: AtomicU64,
}

impl Target {
    /// What the command line says.
    pub fn new(flag: Option<Duration>, behind_router: bool) -> Self {
        Self { flag, behind_router, began: Instant::now(), heard: AtomicU64::new(0) }
    }

    /// The target for a request with these headers, and for those after it.
    pub fn of(&self, headers: &HeaderMap) -> Option<Duration> {
        self.after(if self.behind_router { target::read(headers) } else { None })
    }

    /// The target for a request whose headers said so, and for those after it.
    pub fn after(&self, said: Option<Duration>) -> Option<Duration> {
        let said = said.filter(|_| self.behind_router);
        if said.is_none() && self.heard.load(Ordering::Relaxed) == 0 {
            return self.flag;
        }
        self.at(said, self.began.elapsed().as_secs())
    }

    /// The target for a request of a stream whose headers said so, and were heard before.
    pub fn within(&self, said: Option<Duration>) -> Option<Duration> {
        said.filter(|_| self.behind_router).or_else(|| self.after(None))
    }

    fn at(&self, said: Option<Duration>, now: u64) -> Option<Duration> {
        let before = self.heard.load(Ordering::Relaxed);
        if let Some(millis) = said.and_then(|target| u32::try_from(target.as_millis()).ok()) {
            let heard = (u64::from(millis) << 32) | (now & u64::from(u32::MAX));
            // Mostly once a second, so that cores do not take the line from each other.
            if heard != before {
                self.heard.store(heard, Ordering::Relaxed);
            }
            return said;
        }
        let (millis, at) = (before >> 32, before & u64::from(u32::MAX));
        let is_valid = millis > 0 && now.saturating_sub(at) < HEARD_FOR;
        if is_valid { Some(Duration::from_millis(millis)) } else { self.flag }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_the_router_is_above_the_flag_for_a_minute() {
        let millis = |millis| Some(Duration::from_millis(millis));
        let target = Target::new(millis(50), true);
        assert_eq!(target.at(None, 5), millis(50));
        assert_eq!(target.at(millis(100), 10), millis(100));
        assert_eq!(target.at(None, 11), millis(100), "a request that came another way");
        assert_eq!(target.at(millis(80), 12), millis(80), "changed without a restart");
        assert_eq!(target.at(None, 71), millis(80));
        assert_eq!(target.at(None, 72), millis(50));
        assert_eq!(Target::new(None, true).at(None, 0), None);
    }

    #[test]
    fn the_header_is_read() {
        let headers =
            HeaderMap::from_iter([(target::LATENCY_TARGET, target::value(Duration::from_millis(20)))]);
        let target = Target::new(None, true);
        assert_eq!(target.of(&HeaderMap::new()), None);
        assert_eq!(target.of(&headers), Some(Duration::from_millis(20)));
        assert_eq!(target.of(&HeaderMap::new()), Some(Duration::from_millis(20)));
    }

    #[test]
    fn a_stream_keeps_its_word_and_does_not_repeat_it_to_others() {
        let millis = |millis| Some(Duration::from_millis(millis));
        let target = Target::new(millis(50), true);
        assert_eq!(target.after(millis(100)), millis(100));
        assert_eq!(target.within(millis(80)), millis(80));
        assert_eq!((target.after(None), target.within(None)), (millis(100), millis(100)));
        let open = Target::new(millis(50), false);
        assert_eq!((open.after(millis(100)), open.within(millis(100))), (millis(50), millis(50)));
    }
}
