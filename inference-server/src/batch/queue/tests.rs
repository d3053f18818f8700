//! Tables of which requests are joined, and properties of the rule.

use std::sync::Arc;

use proptest::prelude::*;
use stoker_graph::Data;

use super::*;

type Answer = oneshot::Receiver<Outcome>;

const HOUR: Duration = Duration::from_hours(1);

/// A request of one input of `rows` x `columns`.
fn job(rows: usize, columns: usize) -> (Job, Answer) {
    let (reply, answer) = oneshot::channel();
    let value = Value::new(vec![rows, columns], Data::U8(vec![0; rows * columns])).unwrap();
    let queued = Instant::now();
    let job = Job {
        inputs: vec![value],
        rows: Some(rows),
        cost: rows,
        priority: 0,
        queued,
        deadline: queued + HOUR,
        due: None,
        own: None,
        held: Held::default(),
        reply,
    };
    (job, answer)
}

fn rules(capacity: usize, max_rows: usize) -> Rules {
    Rules { capacity, max_rows, max_delay: Duration::ZERO, executors: 1 }
}

/// A queue that holds `jobs`, with a model that takes 4 ms and 1 ms for each row.
fn holding(rules: Rules, jobs: Vec<Job>) -> Queue {
    let time = |rows: u64| (usize::try_from(rows).unwrap(), Duration::from_millis(4 + rows));
    let queue = Queue::new(rules, &[1, 2, 4, 8, 16, 32, 64].map(time));
    for job in jobs {
        assert_eq!(queue.push(job, None), Ok(()));
    }
    queue
}

fn form(queue: &Queue, now: Instant) -> Taken {
    queue.lock().form(0, now, usize::MAX, false)
}

/// Rows of the requests of a batch, by which a test tells them apart.
fn names(taken: &Taken) -> Vec<usize> {
    taken.batch.iter().map(|job| job.inputs[0].shape()[0]).collect()
}

/// Sizes of the batches that `jobs` form.
fn batches(jobs: Vec<Job>, max_rows: usize) -> Vec<usize> {
    let queue = holding(rules(100, max_rows), jobs);
    let mut sizes = Vec::new();
    while !queue.is_empty() {
        sizes.push(form(&queue, Instant::now()).batch.len());
    }
    sizes
}

#[test]
fn requests_are_joined_up_to_the_limit_and_up_to_another_shape() {
    /// Rows and columns of each request, and the sizes of the batches.
    type Case<'a> = (&'a [(usize, usize)], &'a [usize]);
    let cases: [Case<'_>; 6] = [
        (&[(1, 4), (1, 4), (1, 4)], &[3]),
        (&[(3, 4), (3, 4), (2, 4), (1, 4)], &[3, 1]),
        (&[(1, 4), (1, 5), (1, 4)], &[1, 1, 1]),
        (&[(9, 4), (1, 4)], &[1, 1]),
        (&[(8, 4), (1, 4)], &[1, 1]),
        (&[(1, 4), (9, 4), (1, 4)], &[1, 1, 1]),
    ];
    for (shapes, wanted) in cases {
        let (jobs, _answers): (Vec<_>, Vec<_>) =
            shapes.iter().map(|(rows, columns)| job(*rows, *columns)).unzip();
        assert_eq!(batches(jobs, 8), wanted, "{shapes:?}");
    }
}

#[test]
fn a_request_that_cannot_be_joined_runs_alone() {
    let (mut jobs, _answers): (Vec<_>, Vec<_>) = (0..3).map(|_| job(1, 4)).unzip();
    jobs[1].rows = None;
    assert_eq!(batches(jobs, 8), [1, 1, 1]);
}

#[test]
fn requests_that_nobody_waits_for_are_not_run() {
    let (mut jobs, mut answers): (Vec<_>, Vec<_>) = (0..4).map(|_| job(1, 4)).unzip();
    drop(answers.remove(0));
    jobs[2].deadline = Instant::now();
    let mut taken = form(&holding(rules(8, 8), jobs), Instant::now());
    assert_eq!((taken.batch.len(), taken.cancelled, taken.expired), (2, 1, 1));
    let (reply, outcome) = taken.refused.remove(0);
    reply.send(outcome).unwrap();
    assert_eq!(answers[1].try_recv().unwrap().unwrap_err(), Failure::Expired);
}

#[test]
fn the_queue_is_bounded_and_closes() {
    let queue = holding(rules(2, 8), vec![]);
    let (jobs, _answers): (Vec<_>, Vec<_>) = (0..4).map(|_| job(1, 4)).unzip();
    let pushed: Vec<_> = jobs.into_iter().map(|job| queue.push(job, None)).collect();
    let full = Err(Refused::Full { retry_after: 1 });
    assert_eq!(pushed, [Ok(()), Ok(()), full, full]);
    queue.close();
    assert_eq!(queue.push(job(1, 4).0, None), full);
    assert_eq!(queue.take(0, 8, false).unwrap().batch.len(), 2);
    assert!(queue.take(0, 8, false).is_none());
}

#[test]
fn a_full_queue_makes_room_of_requests_that_nobody_waits_for() {
    let now = Instant::now();
    let (mut jobs, mut answers): (Vec<_>, Vec<_>) = (1..6).map(|rows| job(rows, 4)).unzip();
    for job in &mut jobs {
        job.priority = 3;
    }
    jobs[1].priority = 1;
    jobs[2].deadline = now + Duration::from_millis(1);
    let queue = holding(rules(5, 64), jobs);
    let later = |millis| Job { queued: now + Duration::from_millis(millis), ..job(9, 4).0 };
    assert_eq!(queue.push(later(0), None), Err(Refused::Full { retry_after: 1 }), "all are waited for");
    // One at the head, one in another lane.
    drop(answers.remove(4));
    drop(answers.remove(1));
    assert_eq!(queue.push(later(9), None), Err(Refused::Full { retry_after: 1 }), "it was just searched");
    let (next, _answer) = job(6, 4);
    assert_eq!(queue.push(Job { queued: now + SWEEP, ..next }, None), Ok(()));
    assert_eq!((queue.len(), queue.lock().jobs.rows()), (3, 1 + 4 + 6));
    assert_eq!(answers[1].try_recv().unwrap().unwrap_err(), Failure::Expired);
    let taken = form(&queue, now + SWEEP);
    assert_eq!((names(&taken), taken.cancelled, taken.expired), (vec![6, 1, 4], 2, 1));
    let (last, _answer) = job(7, 4);
    queue.push(last, None).unwrap();
    let taken = form(&queue, now + SWEEP);
    assert_eq!((taken.cancelled, taken.expired), (0, 0), "they are told of once");
}

#[test]
fn no_request_is_lost_between_many_threads() {
    let queue = Arc::new(Queue::new(Rules { executors: 3, ..rules(100_000, 3) }, &[]));
    let takers: Vec<_> = (0..3)
        .map(|number| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                let mut count = 0;
                while let Some(taken) = queue.take(number, 3, false) {
                    for job in taken.batch {
                        count += 1;
                        let done = Done {
                            outputs: vec![],
                            waited: Duration::ZERO,
                            computed: Duration::ZERO,
                            share: 1.0,
                        };
                        job.reply.send(Ok(done)).unwrap();
                    }
                }
                count
            })
        })
        .collect();
    let givers: Vec<_> = (0..4)
        .map(|_| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                for _ in 0..500 {
                    let (job, answer) = job(1, 1);
                    queue.push(job, None).unwrap();
                    // The next one only after the answer, so that the takers sleep now and then.
                    assert!(answer.blocking_recv().unwrap().is_ok());
                }
            })
        })
        .collect();
    for giver in givers {
        giver.join().unwrap();
    }
    queue.close();
    assert_eq!(takers.into_iter().map(|taker| taker.join().unwrap()).sum::<usize>(), 2000);
}

#[test]
fn the_reason_of_a_release_is_told() {
    let released = |shapes: &[(usize, usize)]| {
        let (jobs, _answers): (Vec<_>, Vec<_>) =
            shapes.iter().map(|(rows, columns)| job(*rows, *columns)).unzip();
        form(&holding(rules(8, 4), jobs), Instant::now()).release
    };
    assert_eq!(released(&[(1, 4), (1, 4)]), Release::Idle);
    assert_eq!(released(&[(2, 4), (2, 4)]), Release::Full);
    assert_eq!(released(&[(3, 4), (2, 4)]), Release::Full);
    assert_eq!(released(&[(1, 4), (1, 5)]), Release::Shape);
}

#[test]
fn requests_run_by_priority_and_then_by_the_earliest_deadline() {
    let at = Instant::now() + Duration::from_mins(1);
    // Rows are names here: (priority, seconds to the deadline).
    let asked = [(0, 9), (3, 1), (0, 5), (1, 60), (2, 5), (77, 1)];
    let (jobs, _answers): (Vec<_>, Vec<_>) = asked
        .iter()
        .zip(1..)
        .map(|((priority, seconds), rows)| {
            let (job, answer) = job(rows, 1);
            (Job { priority: *priority, deadline: at + Duration::from_secs(*seconds), ..job }, answer)
        })
        .unzip();
    assert_eq!(names(&form(&holding(rules(8, 64), jobs), Instant::now())), [4, 3, 5, 1, 2, 6]);
}

/// A job that is queued at `now` and must be done `millis` later.
fn due(now: Instant, rows: usize, millis: u64) -> (Job, Answer) {
    let (job, answer) = job(rows, 4);
    let due = Some(now + Duration::from_millis(millis));
    (Job { queued: now, due, own: due, ..job }, answer)
}

/// The same where it is the target that says so.
fn targeted(now: Instant, rows: usize, millis: u64) -> (Job, Answer) {
    let (job, answer) = due(now, rows, millis);
    (Job { own: None, ..job }, answer)
}

const TARGET: Option<Duration> = Some(Duration::from_millis(100));

#[test]
fn a_request_whose_answer_could_not_come_in_time_is_refused_on_arrival() {
    let (queue, now) = (holding(rules(1000, 64), vec![]), Instant::now());
    // A run of 30 rows has begun, and takes 34 ms.
    let (first, _answer) = due(now, 30, 95);
    assert_eq!(queue.push(first, TARGET), Ok(()));
    let taken = form(&queue, now);
    assert_eq!((taken.batch.len(), taken.learned.cap), (1, 32));
    let mut answers = Vec::new();
    let refused = (0..200).find_map(|_| {
        let (job, answer) = due(now, 1, 95);
        answers.push(answer);
        queue.push(job, TARGET).err()
    });
    let Some(Refused::TooLate { expected, retry_after: 1, .. }) = refused else { panic!("{refused:?}") };
    assert!(expected > Duration::from_millis(95), "{expected:?}");
    assert_eq!(queue.len(), 32, "one more batch ends in time");
    // Whoever has more time, or none to keep, is taken.
    assert_eq!(queue.push(due(now, 1, 1000).0, TARGET), Ok(()));
    assert_eq!(queue.push(job(1, 4).0, TARGET), Ok(()));
    // Whoever goes first is taken as well.
    let (job, _answer) = due(now, 1, 95);
    assert_eq!(queue.push(Job { priority: 1, ..job }, TARGET), Ok(()));
}

#[test]
fn runs_of_other_executors_are_not_waited_for() {
    let queue = holding(Rules { executors: 2, ..rules(1000, 64) }, vec![]);
    let now = Instant::now();
    let (first, _answer) = due(now, 30, 95);
    assert_eq!(queue.push(first, TARGET), Ok(()));
    form(&queue, now);
    // The first executor is busy for 34 ms, the second is free: 20 ms are enough for a row.
    let (second, _answer) = due(now, 1, 20);
    assert_eq!(queue.push(second, TARGET), Ok(()));
    queue.lock().form(1, now, usize::MAX, false);
    let refused = queue.push(due(now, 1, 20).0, TARGET);
    assert!(matches!(refused, Err(Refused::TooLate { .. })), "both are busy: {refused:?}");
}

#[test]
fn a_request_that_cannot_make_it_any_more_is_dropped_and_the_others_run() {
    let now = Instant::now();
    let (jobs, mut answers): (Vec<_>, Vec<_>) =
        [20, 200, 21].map(|millis| due(now, 1, millis)).into_iter().unzip();
    let queue = holding(rules(8, 64), vec![]);
    for job in jobs {
        assert_eq!(queue.push(job, Some(Duration::from_secs(1))), Ok(()));
    }
    // 18 ms later: three rows take 7 ms.
    let mut taken = form(&queue, now + Duration::from_millis(18));
    assert_eq!((taken.batch.len(), taken.late, taken.expired), (1, 2, 0));
    for (reply, outcome) in taken.refused.drain(..) {
        reply.send(outcome).unwrap();
    }
    assert_eq!(answers[0].try_recv().unwrap().unwrap_err(), Failure::TooLate { retry_after: 1 });
    assert!(answers[1].try_recv().is_err(), "it runs");
}

#[test]
fn an_estimate_that_forbids_every_request_is_tried_again() {
    let queue = holding(rules(8, 64), vec![]);
    // The target is below a single run.
    let (target, now) = (Some(Duration::from_millis(2)), Instant::now());
    queue.lock().last_end = now;
    let refused = queue.push(due(now, 1, 2).0, target);
    assert!(matches!(refused, Err(Refused::TooLate { .. })), "{refused:?}");
    // Two seconds without a run.
    let later = now + Duration::from_secs(2);
    let (trial, _answer) = due(later, 1, 2);
    assert_eq!(queue.push(trial, target), Ok(()));
    assert_eq!(form(&queue, later).batch.len(), 1, "and it is run");
    assert!(queue.push(due(later, 1, 2).0, target).is_err(), "one at a time");
}

#[test]
fn a_queue_that_is_behind_after_a_pause_answers_late_and_one_that_stands_refuses() {
    let queue = holding(rules(1000, 30), vec![]);
    let made = queue.lock().made;
    let push = |millis| {
        let (job, answer) = targeted(made + Duration::from_millis(millis), 30, 95);
        std::mem::forget(answer);
        queue.push(job, TARGET)
    };
    // A batch takes 34 ms: five are done after 170 ms.
    for _ in 0..5 {
        assert_eq!(push(0), Ok(()));
    }
    while !queue.is_empty() {
        let taken = form(&queue, made + Duration::from_millis(500));
        assert_eq!((taken.batch.len(), taken.late), (1, 0));
        queue.lock().running[0] = None;
    }
    // The same again, and it does not get better.
    for _ in 0..5 {
        assert_eq!(push(600), Ok(()));
    }
    assert_eq!(push(1599), Ok(()));
    let refused = push(1600);
    assert!(matches!(refused, Err(Refused::TooLate { is_own: false, .. })), "{refused:?}");
    let taken = form(&queue, made + Duration::from_millis(1600));
    assert_eq!((taken.batch.len(), taken.late), (1, 5), "those that are late anyway go");
}

#[test]
fn a_target_that_nobody_could_keep_refuses_nothing() {
    // A run of one row takes 5 ms.
    let queue = holding(rules(64, 64), vec![]);
    let (target, now) = (Some(Duration::from_millis(2)), Instant::now());
    let (jobs, _answers): (Vec<_>, Vec<_>) = (0..40).map(|_| targeted(now, 1, 2)).unzip();
    for job in jobs {
        assert_eq!(queue.push(job, target), Ok(()));
    }
    let taken = form(&queue, now + Duration::from_millis(50));
    assert_eq!((taken.batch.len(), taken.late), (40, 0), "all of them together, as without a target");
    assert_eq!(taken.learned.target, target, "it is still shown");
    // What a client wants for itself is kept to all the same.
    let refused = queue.push(due(now, 1, 2).0, target);
    assert!(matches!(refused, Err(Refused::TooLate { is_own: true, .. })), "{refused:?}");
}

#[test]
fn a_target_that_single_runs_just_miss_is_tried_by_one_at_a_time() {
    // A run of one row takes 5 ms, and 6.5 ms at its 99th percentile.
    let queue = holding(rules(64, 64), vec![]);
    let (target, now) = (Some(Duration::from_millis(6)), Instant::now());
    queue.lock().last_end = now;
    stands(&queue);
    let (alone, _answer) = targeted(now, 1, 6);
    assert_eq!(queue.push(alone, target), Ok(()));
    let refused = queue.push(targeted(now, 1, 6).0, target);
    assert!(matches!(refused, Err(Refused::TooLate { is_own: false, .. })), "{refused:?}");
    assert_eq!(form(&queue, now + Duration::from_millis(1)).batch.len(), 1, "and is not dropped");
}

/// Some request was late for all of the last seconds.
fn stands(queue: &Queue) {
    let late = |now| Head { rows: 1, waiting: 2, cap: 1, left: 0.0, own: 1.0, now, patience: 1.0 };
    let mut state = queue.lock();
    assert_eq!([-2.0, 0.0].map(|now| state.control.fate(late(now))), [Fate::Late, Fate::GivenUp]);
}

#[test]
fn two_clients_that_are_always_late_are_overload_though_each_run_takes_all_that_wait() {
    // A run of 60 rows takes 64 ms, and with as many before it ends after the target.
    let queue = holding(rules(100, 64), vec![]);
    let made = queue.lock().made;
    let push = |millis: u64| {
        let (job, answer) = targeted(made + Duration::from_millis(millis), 60, 95);
        std::mem::forget(answer);
        queue.push(job, TARGET)
    };
    assert_eq!(push(0), Ok(()));
    form(&queue, made);
    let refused = (0..40).find(|round| {
        let now = round * 64;
        let refused = push(now).is_err();
        let now = made + Duration::from_millis(now + 64);
        queue.lock().running[0] = None;
        assert_eq!(form(&queue, now).late, 0);
        refused
    });
    assert!(refused.is_some_and(|round| (14..=17).contains(&round)), "after a second: {refused:?}");
}

#[test]
fn a_late_answer_is_given_where_it_makes_nobody_else_late() {
    // A run of 30 rows, the largest batch for 100 ms, takes 34 ms.
    let all = |rows: &[usize], overload: bool| {
        let queue = holding(rules(64, 30), vec![]);
        if overload {
            stands(&queue);
        }
        let now = Instant::now();
        queue.lock().target = TARGET;
        let (jobs, _answers): (Vec<_>, Vec<_>) = rows.iter().map(|rows| targeted(now, *rows, 95)).unzip();
        for job in jobs {
            assert_eq!(queue.push(job, TARGET), Ok(()));
        }
        // The machine stood still.
        let taken = form(&queue, now + Duration::from_millis(300));
        (taken.batch.len(), taken.late)
    };
    assert_eq!(all(&[1], true), (1, 0));
    assert_eq!(all(&[10, 10, 5], true), (3, 0));
    assert_eq!(all(&[10, 10, 11], true), (2, 1), "the first gives its place to those behind it");
    assert_eq!(all(&[10, 10, 11], false), (2, 0), "the queue will be empty soon");
    // Nobody wants it.
    let queue = holding(rules(64, 30), vec![]);
    let now = Instant::now();
    let (impatient, _answer) = due(now, 1, 95);
    assert_eq!(queue.push(impatient, TARGET), Ok(()));
    assert_eq!(form(&queue, now + Duration::from_millis(300)).late, 1);
}

#[test]
fn runs_teach_the_cost() {
    let queue = holding(rules(100, 64), vec![]);
    let before = form(&queue, Instant::now()).learned;
    assert!((before.fixed - 0.004).abs() < 1e-6 && (before.per_row - 0.001).abs() < 1e-6, "{before:?}");
    let began = Instant::now();
    for _ in 0..100 {
        let mut state = queue.lock();
        state.running[0] = Some(Running { began, rows: 8, is_trial: false, is_quiet: false });
        state.ended(0, true, began + Duration::from_millis(24));
        // One that fell apart says nothing.
        state.running[0] = Some(Running { began, rows: 8, is_trial: false, is_quiet: false });
        state.ended(0, false, began + Duration::from_secs(9));
    }
    let after = form(&queue, Instant::now()).learned;
    assert!((after.fixed + 8.0 * after.per_row - 0.024).abs() < 0.001, "{after:?}");
}

#[test]
fn a_batch_is_held_back_for_others_as_long_as_is_allowed() {
    let delay = Duration::from_mins(10);
    let (jobs, _answers): (Vec<_>, Vec<_>) = (0..3).map(|_| job(1, 4)).unzip();
    let queue = holding(Rules { max_delay: delay, ..rules(8, 64) }, jobs);
    let (state, now) = (queue.lock(), Instant::now());
    assert!(state.hold(delay, usize::MAX, now).is_some_and(|wait| wait <= delay));
    assert_eq!(state.hold(delay, 3, now), None, "the batch is full");
    assert_eq!(state.hold(delay, usize::MAX, now + delay), None, "the delay is over");
    drop(state);
    queue.push(job(1, 5).0, None).unwrap();
    assert_eq!(queue.lock().hold(delay, usize::MAX, now), None, "another shape is there");
}

#[test]
fn an_executor_that_waits_for_more_comes_back_by_itself() {
    let delay = Duration::from_millis(300);
    let (jobs, _answers): (Vec<_>, Vec<_>) = (0..3).map(|_| job(1, 4)).unzip();
    let taken = holding(Rules { max_delay: delay, ..rules(8, 64) }, jobs).take(0, 64, false).unwrap();
    assert_eq!((taken.batch.len(), taken.release), (3, Release::Delay));
}

proptest! {
    #[test]
    fn batches_keep_order_and_limit(shapes in prop::collection::vec((0_usize..10, 1_usize..3), 1..40), max_rows in 1_usize..12) {
        let (jobs, _answers): (Vec<_>, Vec<_>) = shapes.iter().map(|(rows, columns)| job(*rows, *columns)).unzip();
        let queue = holding(rules(40, max_rows), jobs);
        let mut seen = Vec::new();
        while !queue.is_empty() {
            let batch = form(&queue, Instant::now()).batch;
            prop_assert!(!batch.is_empty());
            let rows: usize = batch.iter().filter_map(|job| job.rows).sum();
            prop_assert!(rows <= max_rows || batch.len() == 1);
            seen.extend(batch.iter().map(|job| (job.inputs[0].shape()[0], job.inputs[0].shape()[1])));
        }
        prop_assert_eq!(seen, shapes);
    }
}
