//! Batches of good and bad requests: every good one gets its own answer.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use stoker_graph::{DType, Data, ValueInfo};
use tokio::sync::oneshot;

use super::super::Held;
use super::super::queue::Rules;
use super::*;

/// Doubles each element of column 0; fails on 13, panics on 17, loses a row on 19; on 23 it goes on until nobody waits.
struct Model {
    /// Rows of each run.
    runs: Mutex<Vec<usize>>,
}

impl Runner for Model {
    fn run(&self, inputs: Vec<(String, Value)>, stop: Stop<'_>) -> Result<Vec<(String, Value)>, RunError> {
        let (shape, data) = inputs.into_iter().next().unwrap().1.into_parts();
        let Data::I64(mut items) = data else { panic!("INT64 is declared") };
        self.runs.lock().unwrap().push(shape[0]);
        if items.contains(&13) {
            let (node, op) = ("table".to_owned(), "Gather".to_owned());
            return Err(RunError::Node { node, op, reason: "index 13 is out of range".to_owned() });
        }
        assert!(!items.contains(&17), "seventeen");
        while items.contains(&23) {
            if stop() {
                return Err(RunError::Stopped);
            }
            std::thread::yield_now();
        }
        if items.contains(&19) {
            items.pop();
        }
        let doubled = items.iter().map(|item| item * 2).collect::<Vec<_>>();
        Ok(vec![("y".to_owned(), Value::new(vec![doubled.len()], Data::I64(doubled)).unwrap())])
    }
}

/// What a request was given.
type Given = Result<Vec<i64>, Failure>;

#[derive(Clone, Default)]
struct Counts(Arc<[AtomicUsize; 3]>);

impl Telemetry for Counts {
    fn ran(&self, requests: usize, _: usize, _: Duration) {
        self.0[0].fetch_add(requests, Ordering::Relaxed);
    }
    fn released(&self, _: Release, _: &Learned) {}
    fn dropped(&self, cancelled: usize, expired: usize, late: usize) {
        self.0[1].fetch_add(cancelled + expired + late, Ordering::Relaxed);
    }
    fn panicked(&self) {
        self.0[2].fetch_add(1, Ordering::Relaxed);
    }
}

/// A signature of rows of integers.
fn signature() -> Arc<Signature> {
    let info = |name: &str| ValueInfo::tensor(name, DType::I64, vec![None]);
    Arc::new(Signature { inputs: vec![info("x")], outputs: vec![info("y")], batch_axis: true })
}

/// A request that nobody has queued yet, and where its answer comes.
fn job(items: &[i64]) -> (Job, oneshot::Receiver<Outcome>) {
    let (reply, answer) = oneshot::channel();
    let queued = Instant::now();
    let inputs = vec![Value::new(vec![items.len()], Data::I64(items.to_vec())).unwrap()];
    let (rows, cost, deadline) = (Some(items.len()), items.len(), queued + Duration::from_hours(1));
    (
        Job {
            inputs,
            rows,
            cost,
            priority: 0,
            queued,
            deadline,
            due: None,
            own: None,
            held: Held::default(),
            reply,
        },
        answer,
    )
}

/// Queues requests of the given rows, then starts one executor, so that they run together. Gives the answers, the rows
/// of each run, and the number of panics.
fn answers(requests: &[&[i64]]) -> (Vec<Given>, Vec<usize>, usize) {
    let signature = signature();
    let rules = Rules { capacity: 100, max_rows: 64, max_delay: Duration::ZERO, executors: 1 };
    let (queue, model) = (Arc::new(Queue::new(rules, &[])), Arc::new(Model { runs: Mutex::default() }));
    let counts = Counts::default();
    let waiting: Vec<_> = requests
        .iter()
        .map(|items| {
            let (job, answer) = job(items);
            queue.push(job, None).unwrap();
            answer
        })
        .collect();
    queue.close();
    let (threads, delivery) = start(&queue, &model, &signature, &counts, 1, 1).unwrap();
    for thread in threads {
        thread.join().unwrap();
    }
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(delivery.deliver());
    let answers = waiting.into_iter().map(|answer| {
        answer.blocking_recv().unwrap().map(|done| match done.outputs[0].data() {
            Data::I64(items) => items.clone(),
            other => panic!("{other:?}"),
        })
    });
    (answers.collect(), model.runs.lock().unwrap().clone(), counts.0[2].load(Ordering::Relaxed))
}

#[test]
fn requests_that_are_queued_together_run_as_one_and_get_their_own_rows() {
    let (answers, runs, _) = answers(&[&[1], &[2, 3], &[4]]);
    assert_eq!(answers, [Ok(vec![2]), Ok(vec![4, 6]), Ok(vec![8])]);
    assert_eq!(runs, [4]);
}

#[test]
fn a_request_on_which_the_model_fails_fails_alone() {
    let (answers, runs, panics) = answers(&[&[1], &[13], &[4]]);
    assert_eq!((&answers[0], &answers[2]), (&Ok(vec![2]), &Ok(vec![8])));
    let message = answers[1].as_ref().unwrap_err().to_string();
    assert!(message.contains("node `table` (Gather)"), "{message}");
    assert_eq!((runs, panics), (vec![3, 1, 1, 1], 0));
}

#[test]
fn a_panic_ends_its_own_request_only() {
    let (answers, _, panics) = answers(&[&[1], &[17], &[4]]);
    assert_eq!(answers, [Ok(vec![2]), Err(Failure::Panicked), Ok(vec![8])]);
    // Once in the batch, once alone.
    assert_eq!(panics, 2);
}

#[test]
fn a_model_that_does_not_keep_its_rows_is_not_batched() {
    let (answers, runs, _) = answers(&[&[1, 1], &[19, 19], &[4]]);
    assert_eq!(answers, [Ok(vec![2, 2]), Ok(vec![38]), Ok(vec![8])]);
    assert_eq!(runs, [5, 2, 2, 1]);
}

#[test]
fn outputs_are_matched_by_name() {
    let info = |name: &str| ValueInfo::tensor(name, DType::I64, vec![None]);
    let signature = Signature { inputs: vec![], outputs: vec![info("a"), info("b")], batch_axis: true };
    let value = |item| Value::new(vec![1], Data::I64(vec![item])).unwrap();
    let given = vec![("b".to_owned(), value(2)), ("a".to_owned(), value(1))];
    assert_eq!(in_declared_order(given, &signature), Ok(vec![value(1), value(2)]));
    let message = in_declared_order(vec![("b".to_owned(), value(2))], &signature).unwrap_err().to_string();
    assert!(message.contains("no output `a`"), "{message}");
}

#[test]
fn a_run_for_which_nobody_waits_any_more_is_given_up() {
    let rules = Rules { capacity: 100, max_rows: 64, max_delay: Duration::ZERO, executors: 1 };
    let (queue, model) = (Arc::new(Queue::new(rules, &[])), Arc::new(Model { runs: Mutex::default() }));
    let (threads, delivery) = start(&queue, &model, &signature(), &Counts::default(), 1, 1).unwrap();
    let (endless, gone) = job(&[23]);
    queue.push(endless, None).unwrap();
    while model.runs.lock().unwrap().is_empty() {
        std::thread::yield_now();
    }
    drop(gone);
    let (mut short, late) = job(&[23]);
    // Not joined with the next one, which is waited for: the executor may be back after both are there.
    short.rows = None;
    short.deadline = Instant::now() + Duration::from_millis(20);
    queue.push(short, None).unwrap();
    // Only an executor that has come back can take it.
    let (next, answer) = job(&[4]);
    queue.push(next, None).unwrap();
    queue.close();
    for thread in threads {
        thread.join().unwrap();
    }
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(delivery.deliver());
    assert_eq!(late.blocking_recv().unwrap().unwrap_err(), Failure::Expired);
    assert!(answer.blocking_recv().unwrap().is_ok());
}

#[test]
fn after_a_batch_that_failed_only_those_that_are_waited_for_run() {
    let rules = Rules { capacity: 100, max_rows: 64, max_delay: Duration::ZERO, executors: 1 };
    let (answers, receiver) = mpsc::unbounded_channel();
    let executor = Executor {
        queue: Arc::new(Queue::new(rules, &[])),
        runner: Arc::new(Model { runs: Mutex::default() }),
        signature: signature(),
        telemetry: Counts::default(),
        number: 0,
        answers,
        splits_badly: Arc::default(),
    };
    let (mut jobs, mut waiting): (Vec<_>, Vec<_>) =
        [&[1][..], &[2, 2], &[3, 3, 3], &[13], &[5, 5]].map(job).into_iter().unzip();
    waiting.remove(0);
    jobs[1].deadline = Instant::now();
    jobs[2].due = Some(Instant::now());
    assert!(!executor.run_together(jobs));
    assert_eq!(*executor.runner.runs.lock().unwrap(), [9, 1, 2]);
    assert_eq!(executor.telemetry.0[1].load(Ordering::Relaxed), 3);
    drop(executor);
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(Answers(receiver).deliver());
    let mut outcomes = waiting.into_iter().map(|answer| answer.blocking_recv().unwrap());
    assert_eq!(outcomes.next().unwrap().unwrap_err(), Failure::Expired);
    assert_eq!(outcomes.next().unwrap().unwrap_err(), Failure::Spent);
    assert!(matches!(outcomes.next(), Some(Err(Failure::Model(_)))));
    assert!(outcomes.next().unwrap().is_ok());
}
