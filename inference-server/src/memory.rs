//! How much memory the process may have, and what is left of it for runs of the model.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the limit of the process's own cgroup stands, as containers see it: version 2, and version 1.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
/// A limit from here on is none: version 1 has one near 2^63 where nobody set it.
const NO_LIMIT: u64 = 1 << 60;
/// The least that a run gets: with less, no model could be served at all, and the container's limit is wrong.
const LEAST: u64 = 64 << 20;

/// Bytes that the tensors of one run may take together: what the container's limit leaves beside what the process holds
/// by now, shared by the runs at a time. `None` where there is no limit.
pub fn for_each_run(runs: usize) -> Option<u64> {
    let limit = LIMITS.iter().find_map(|path| limit(&std::fs::read_to_string(path).ok()?))?;
    let held = resident(&std::fs::read_to_string(Path::new("/proc/self/status")).ok()?)?;
    Some(share(limit, held, runs))
}

/// Stands for no bound.
const UNBOUNDED: u64 = u64::MAX;

/// What one run of a model may take, where several models share the process: the runs of all of them may happen at a time.
#[derive(Debug)]
pub struct Share {
    runs: usize,
    bytes: AtomicU64,
}

impl Share {
    /// Among so many runs at a time. There is no bound before the first [`Self::measure`].
    pub fn among(runs: usize) -> Self {
        Self { runs, bytes: AtomicU64::new(UNBOUNDED) }
    }

    /// Divides what is left by now. Done whenever a model was loaded: what it holds is no longer left for runs, of the models
    /// before it neither. Tensors of runs under way count as held, which errs on the safe side.
    pub fn measure(&self) -> Option<u64> {
        self.set(for_each_run(self.runs))
    }

    fn set(&self, bytes: Option<u64>) -> Option<u64> {
        self.bytes.store(bytes.unwrap_or(UNBOUNDED), Ordering::Relaxed);
        bytes
    }

    /// Bytes for one run, as measured last. `None` where there is no limit.
    pub fn bytes(&self) -> Option<u64> {
        Some(self.bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != UNBOUNDED)
    }
}

/// What a run gets.
fn share(limit: u64, held: u64, runs: usize) -> u64 {
    let runs = u64::try_from(runs).unwrap_or(u64::MAX).max(1);
    (limit.saturating_sub(held) / runs).max(LEAST)
}

/// The limit that a cgroup's file says.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
}

/// Resident bytes, from `/proc/PID/status`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_both_versions() {
        assert_eq!(limit("1073741824\n"), Some(1 << 30));
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit(""), None);
    }

    #[test]
    fn what_the_process_holds_is_read_from_its_status() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t2\n"), Some(2 << 20));
        assert_eq!(resident("Name:\tx\n"), None);
        let own = resident(&std::fs::read_to_string("/proc/self/status").unwrap());
        assert!(own.is_some_and(|bytes| bytes > 100_000), "{own:?}");
    }

    #[test]
    fn runs_share_what_is_left_and_have_the_least_at_least() {
        assert_eq!(share(1 << 30, 512 << 20, 2), 256 << 20);
        assert_eq!(share(1 << 30, 512 << 20, 0), 512 << 20);
        assert_eq!(share(1 << 30, 2 << 30, 2), LEAST);
    }

    #[test]
    fn a_share_is_what_was_measured_last() {
        let all = Share::among(4);
        assert_eq!(all.bytes(), None);
        for bytes in [Some(1 << 30), Some(1 << 29), None] {
            assert_eq!((all.set(bytes), all.bytes()), (bytes, bytes));
        }
    }
}
