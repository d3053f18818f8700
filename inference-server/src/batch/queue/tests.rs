//! Tables of which requests are joined, and properties of the rule.

use std::sync::Arc;

use proptest::prelude::*;
use stoker_graph::Data;

use super::*;

type Answer = oneshot::Receiver<Result<Done, Failure>>;

/// A request of one input of `rows` x `columns`.
fn job(rows: usize, columns: usize) -> (Job, Answer) {
    let (reply, answer) = oneshot::channel();
    let value = Value::new(vec![rows, columns], Data::U8(vec![0; rows * columns])).unwrap();
    let now = Instant::now();
    let deadline = now + Duration::from_hours(1);
    (Job { inputs: vec![value], rows: Some(rows), queued: now, deadline, reply }, answer)
}

/// Sizes of the batches that `jobs` form.
fn batches(jobs: Vec<Job>, max_rows: usize) -> Vec<usize> {
    let mut jobs = VecDeque::from(jobs);
    let mut sizes = Vec::new();
    while !jobs.is_empty() {
        sizes.push(form(&mut jobs, Instant::now(), max_rows).batch.len());
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
    let taken = form(&mut VecDeque::from(jobs), Instant::now(), 8);
    assert_eq!((taken.batch.len(), taken.cancelled, taken.expired), (2, 1, 1));
    assert_eq!(answers[1].try_recv().unwrap().unwrap_err(), Failure::Expired);
}

#[test]
fn the_queue_is_bounded_and_closes() {
    let queue = Queue::new(2);
    let (jobs, _answers): (Vec<_>, Vec<_>) = (0..4).map(|_| job(1, 4)).unzip();
    let pushed: Vec<_> = jobs.into_iter().map(|job| queue.push(job)).collect();
    assert_eq!(pushed, [Ok(()), Ok(()), Err(Full), Err(Full)]);
    queue.close();
    assert_eq!(queue.push(job(1, 4).0), Err(Full));
    assert_eq!(queue.take(8).unwrap().batch.len(), 2);
    assert!(queue.take(8).is_none());
}

#[test]
fn no_request_is_lost_between_many_threads() {
    let queue = Arc::new(Queue::new(100_000));
    let takers: Vec<_> = (0..3)
        .map(|_| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || {
                let mut count = 0;
                while let Some(taken) = queue.take(3) {
                    for job in taken.batch {
                        count += 1;
                        let done = Done { outputs: vec![], waited: Duration::ZERO, computed: Duration::ZERO };
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
                    queue.push(job).unwrap();
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

proptest! {
    #[test]
    fn batches_keep_order_and_limit(shapes in prop::collection::vec((0_usize..10, 1_usize..3), 1..40), max_rows in 1_usize..12) {
        let (jobs, _answers): (Vec<_>, Vec<_>) = shapes.iter().map(|(rows, columns)| job(*rows, *columns)).unzip();
        let mut jobs = VecDeque::from(jobs);
        let mut seen = Vec::new();
        while !jobs.is_empty() {
            let batch = form(&mut jobs, Instant::now(), max_rows).batch;
            prop_assert!(!batch.is_empty());
            let rows: usize = batch.iter().filter_map(|job| job.rows).sum();
            prop_assert!(rows <= max_rows || batch.len() == 1);
            seen.extend(batch.iter().map(|job| (job.inputs[0].shape()[0], job.inputs[0].shape()[1])));
        }
        prop_assert_eq!(seen, shapes);
    }
}
