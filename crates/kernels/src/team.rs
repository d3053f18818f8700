//! Threads that help with one piece of work after the other.
//!
//! A run of a network is some fifty steps, each some ten to some hundred microseconds long, and waking a thread of rayon's pool
//! takes as long as the shorter ones. So a helper, once it is awake, waits for the next step of the run, or for the next run: it
//! looks for [`LINGER`] at most, does what else is there to do in its pool meanwhile, and sleeps when nothing came.
//!
//! Each thread that has work has a [`Board`], on which it writes what is to be done. Helpers come to it by themselves: whoever
//! comes late finds nothing, and nobody waits for those that have not come.

#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a helper waits for the next piece of work. Between two steps of a run that are shared there is rarely more.
const LINGER: Duration = Duration::from_micros(100);
/// So often a helper looks at the board before it looks at the clock, and for other work of its pool.
const LOOKS: usize = 32;
/// So often the owner looks for its helpers to end before it lets other threads of the processor go first.
const PATIENCE: usize = 2000;

/// The board says that there is work which helpers may begin.
const OPEN: usize = 1 << 15;
/// Below are those who are at it; above [`OPEN`] is the number of the work.
const INSIDE: usize = OPEN - 1;

/// Work whose lifetime the board's owner sees to.
#[derive(Clone, Copy)]
struct Work {
    of: *const (),
    call: unsafe fn(*const (), usize),
}

/// Where a thread writes what is to be done.
struct Board {
    /// The number of the work, whether it may be begun, and how many helpers are at it.
    state: AtomicUsize,
    /// Written by the owner while the board is closed and nobody is inside, read by those inside.
    work: UnsafeCell<Option<Work>>,
    /// How many helpers are there or were sent for.
    helpers: AtomicUsize,
    /// What a helper panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `work` is the only part that is not safe to share, and `state` says who may touch it: see there.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

thread_local! {
    /// The board of this thread's own work.
    static BOARD: Arc<Board> = Arc::new(Board {
        state: AtomicUsize::new(0),
        work: UnsafeCell::new(None),
        helpers: AtomicUsize::new(0),
        panic: Mutex::new(None),
    });
    /// True while this thread helps, or waits in [`join`]: whatever it does besides has to end soon.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// True where somebody is there to help this thread, or on the way.
pub(crate) fn has_helpers() -> bool {
    BOARD.with(|board| board.helpers.load(Ordering::Relaxed) > 0)
}

/// Calls `work` on this thread and on others of the pool. So many are sent for that there are `threads` with this one; some may come
/// late or never, and those that are still here from work for more threads take part, too: `work` has to
/// take what is left to do until there is nothing. It is given 0 on this thread and, as a rule, another number on each of the others,
/// the same for all that a helper does. Comes back when nobody is at it any more, and panics where `work` did.
pub(crate) fn at_once<F: Fn(usize) + Sync>(threads: usize, work: &F) {
    unsafe fn call<F: Fn(usize)>(of: *const (), number: usize) {
        // SAFETY: `of` is the `work` of the call that wrote it on the board, which waits for all that are at it.
        unsafe { (*of.cast::<F>())(number) }
    }
    let board = BOARD.with(Arc::clone);
    if threads < 2 || board.state.load(Ordering::Relaxed) & OPEN != 0 {
        // Work inside of work is that of the one who is at it.
        return work(0);
    }
    board.open(Work { of: std::ptr::from_ref(work).cast(), call: call::<F> });
    let closing = Closing { board: &board, panics: std::thread::panicking() };
    // A helper that goes looks at the board once more: either it sees the work, or it is seen to be gone.
    fence(Ordering::SeqCst);
    while board.helpers.load(Ordering::Relaxed) < threads - 1 {
        let number = board.helpers.fetch_add(1, Ordering::Relaxed) + 1;
        let board = Arc::clone(&board);
        rayon::spawn(move || help(&board, number));
    }
    work(0);
    drop(closing);
    let panic = board.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
}

/// Closes a board, and waits for those who are at its work: also when the owner's part panics.
struct Closing<'a> {
    board: &'a Board,
    /// True where the owner was in a panic already.
    panics: bool,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.board.state.fetch_and(!OPEN, Ordering::Relaxed);
        let mut looks = 0;
        while self.board.state.load(Ordering::Acquire) & INSIDE != 0 {
            looks += 1;
            if looks < PATIENCE {
                std::hint::spin_loop();
            } else {
                // Its helper may wait for this very processor.
                std::thread::yield_now();
            }
        }
        if std::thread::panicking() && !self.panics {
            // The owner's own panic is told; a helper's would be taken for one of the next piece of work.
            self.board.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

impl Board {
    /// Writes work on the board; for its owner alone, while nothing is on it.
    fn open(&self, work: Work) {
        // SAFETY: the board is closed and nobody is inside, so that nobody reads; only the owner writes.
        unsafe { *self.work.get() = Some(work) };
        let number = self.state.load(Ordering::Relaxed) / (2 * OPEN);
        self.state.store(number.wrapping_add(1).wrapping_mul(2 * OPEN) | OPEN, Ordering::Release);
    }

    /// Does the work that is on the board, if there is any that is not that of number `done`; gives its number. `helper` is the
    /// helper's.
    fn take_part(&self, helper: usize, done: Option<usize>) -> Option<usize> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let number = state / (2 * OPEN);
            if state & OPEN == 0 || done == Some(number) {
                return None;
            }
            match self.state.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    // SAFETY: it was written before the board was opened, and its owner waits until nobody is inside.
                    if let Some(Work { of, call }) = unsafe { *self.work.get() } {
                        // SAFETY: as above; `call` is made for what `of` is.
                        let result = catch_unwind(AssertUnwindSafe(|| unsafe { call(of, helper) }));
                        if let Err(panic) = result {
                            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
                        }
                    }
                    self.state.fetch_sub(1, Ordering::Release);
                    return Some(number);
                }
                Err(now) => state = now,
            }
        }
    }
}

/// Calls both, on two threads where another one is free: `rayon::join`, in which this thread does not wait for work of others when
/// both are done.
pub fn join<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    let _busy = Busy::begin();
    rayon::join(a, b)
}

/// While it lives, this thread is busy.
struct Busy {
    before: bool,
}

impl Busy {
    fn begin() -> Self {
        Self { before: BUSY.replace(true) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.set(self.before);
    }
}

/// What a helper does from coming to going.
fn help(board: &Board, number: usize) {
    let own = BOARD.with(|own| std::ptr::eq(Arc::as_ptr(own), board));
    let busy = Busy::begin();
    let mut done = None;
    loop {
        match (own, busy.before) {
            // Nobody helps himself.
            (true, _) => {}
            (_, true) => done = board.take_part(number, done).or(done),
            _ => wait_and_help(board, number, &mut done),
        }
        board.helpers.fetch_sub(1, Ordering::SeqCst);
        // The owner may have counted on this one between the last look and the line above.
        let state = board.state.load(Ordering::SeqCst);
        if own || state & OPEN == 0 || done == Some(state / (2 * OPEN)) {
            break;
        }
        board.helpers.fetch_add(1, Ordering::SeqCst);
    }
}

/// Helps until there was nothing to do for a while.
fn wait_and_help(board: &Board, helper: usize, done: &mut Option<usize>) {
    let mut idle = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if let Some(number) = board.take_part(helper, *done) {
                *done = Some(number);
                idle = Instant::now();
            }
            std::hint::spin_loop();
        }
        if idle.elapsed() > LINGER {
            return;
        }
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            idle = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool")
    }

    #[test]
    fn all_work_is_done_once_by_those_who_come() {
        for threads in [1, 2, 5] {
            pool(threads).install(|| {
                for round in 0..2000 {
                    let (next, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
                    at_once(threads, &|_| {
                        while next.fetch_add(1, Ordering::Relaxed) < round % 50 {
                            sum.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                    assert_eq!(sum.into_inner(), round % 50);
                }
            });
        }
    }

    #[test]
    fn helpers_go_when_nothing_comes() {
        pool(2).install(|| {
            at_once(2, &|_| std::thread::sleep(Duration::from_millis(20)));
            let begun = Instant::now();
            while has_helpers() {
                assert!(begun.elapsed() < Duration::from_mins(1), "a helper stays");
                rayon::yield_now();
                std::thread::yield_now();
            }
        });
    }

    #[test]
    fn a_panic_of_a_helper_is_the_owners() {
        pool(2).install(|| {
            let owner = std::thread::current().id();
            let helped = AtomicBool::new(false);
            let work = |_| {
                if std::thread::current().id() == owner {
                    // Until the helper is here.
                    while !helped.load(Ordering::Relaxed) {
                        std::thread::yield_now();
                    }
                } else {
                    helped.store(true, Ordering::Relaxed);
                    std::panic::panic_any("its word");
                }
            };
            let panic = catch_unwind(AssertUnwindSafe(|| at_once(2, &work))).expect_err("it panicked");
            assert_eq!(panic.downcast_ref(), Some(&"its word"));
            // The next piece of work is none the worse for it.
            at_once(2, &|_| {});
        });
    }

    #[test]
    fn a_panic_of_both_is_told_once() {
        pool(2).install(|| {
            let helped = AtomicUsize::new(0);
            let work = |_| {
                // Until both are here.
                helped.fetch_add(1, Ordering::Relaxed);
                while helped.load(Ordering::Relaxed) < 2 {
                    std::thread::yield_now();
                }
                std::panic::panic_any("a word");
            };
            let panic = catch_unwind(AssertUnwindSafe(|| at_once(2, &work))).expect_err("it panicked");
            assert_eq!(panic.downcast_ref(), Some(&"a word"));
            at_once(2, &|_| {});
        });
    }

    #[test]
    fn both_of_a_join_share_their_work() {
        pool(3).install(|| {
            let half = || {
                let (next, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
                for _ in 0..500 {
                    next.store(0, Ordering::Relaxed);
                    at_once(3, &|_| {
                        while next.fetch_add(1, Ordering::Relaxed) < 10 {
                            sum.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                sum.into_inner()
            };
            assert_eq!(join(half, half), (5000, 5000));
        });
    }

    #[test]
    fn work_inside_of_work_is_done() {
        pool(2).install(|| {
            let done = AtomicUsize::new(0);
            let next = AtomicUsize::new(0);
            at_once(2, &|_| {
                while next.fetch_add(1, Ordering::Relaxed) < 4 {
                    let inner = AtomicUsize::new(0);
                    at_once(2, &|_| {
                        while inner.fetch_add(1, Ordering::Relaxed) < 3 {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!(done.into_inner(), 12);
        });
    }
}
