//! Confidence and classes of what the model gives, from a sample of each batch.
//!
//! Executors copy a few rows and go on; a thread of its own looks at them some times a second. What comes faster than it
//! looks is not sampled, so that its cost has a bound at any load.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use stoker_decide::confidence::{Choice, Chooser, Classes, Confidence};
use stoker_graph::{DType, Data, Value, ValueInfo};

use super::metrics::{PredictionMetrics, Series};
use crate::protocol::Signature;

/// Rows of a batch that are looked at.
const ROWS: usize = 64;
/// Elements of one output of a batch that are looked at: with many classes that is fewer rows.
const ELEMENTS: usize = 4096;
/// A table that is wider is no table of probabilities of classes.
const WIDEST: usize = 16_384;
/// Samples that wait. More are not taken.
const WAITING: usize = 32;
/// Rows of an output that are remembered until it is known which output holds probabilities.
const MOST_UNDECIDED: usize = 4096;
/// How often the thread looks.
const LOOK: Duration = Duration::from_millis(100);

/// Rows of one output.
#[derive(Debug, PartialEq)]
struct Rows<T> {
    /// Position of the output in the signature.
    output: usize,
    width: usize,
    items: Vec<T>,
}

/// A sample of a batch.
#[derive(Debug, Default, PartialEq)]
struct Sample {
    rows: usize,
    tables: Vec<Rows<f64>>,
    labels: Option<Rows<i64>>,
}

/// What is sampled: outputs that may hold probabilities, and the one that holds labels.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interest {
    tables: Vec<usize>,
    labels: Option<usize>,
}

impl Interest {
    /// What a model's declaration lets one hope for: tables of floats with two dimensions, and the first column of
    /// integers.
    fn of(signature: &Signature) -> Self {
        let is_table = |info: &ValueInfo| {
            matches!(info.dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
                && matches!(info.shape.as_slice(), [_, width] if width.is_none_or(|width| width >= 2))
        };
        let is_column = |info: &ValueInfo| {
            matches!(info.dtype, DType::I32 | DType::I64)
                && matches!(info.shape.as_slice(), [_] | [_, Some(1)])
        };
        let outputs = || signature.outputs.iter().enumerate();
        Self {
            tables: outputs().filter(|(_, info)| is_table(info)).map(|(position, _)| position).collect(),
            labels: outputs().find(|(_, info)| is_column(info)).map(|(position, _)| position),
        }
    }
}

/// What executors show outputs to. Shared with the thread that looks.
#[derive(Debug)]
pub struct Sampler {
    interest: Interest,
    /// The table that holds probabilities, once that is known; `None` when none does.
    chosen: OnceLock<Option<usize>>,
    waiting: Mutex<Vec<Sample>>,
    /// Where the next sample begins, so that no row of a batch is always left out.
    turn: AtomicUsize,
    series: Series,
}

impl Sampler {
    fn new(interest: Interest, series: Series) -> Self {
        Self {
            interest,
            chosen: OnceLock::new(),
            waiting: Mutex::default(),
            turn: AtomicUsize::new(0),
            series,
        }
    }

    /// Takes a sample of the outputs of a batch.
    pub fn see(&self, outputs: &[Value]) {
        let rows = outputs.first().and_then(|output| output.shape().first()).copied().unwrap_or(0);
        self.series.rows.inc_by(rows as u64);
        if self.lock().len() >= WAITING {
            return;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let tables = match self.chosen.get() {
            None => self.interest.tables.as_slice(),
            Some(chosen) => chosen.as_slice(),
        };
        let mut sample = Sample::default();
        for &output in tables {
            if let Some(table) = outputs.get(output).and_then(|value| table(output, value, turn)) {
                sample.rows = sample.rows.max(table.items.len() / table.width.max(1));
                sample.tables.push(table);
            }
        }
        if let Some(output) = self.interest.labels {
            sample.labels = outputs.get(output).and_then(|value| column(output, value, turn));
            sample.rows = sample.rows.max(sample.labels.as_ref().map_or(0, |labels| labels.items.len()));
        }
        if sample.rows == 0 {
            return;
        }
        let mut waiting = self.lock();
        // Other executors may have been here meanwhile.
        if waiting.len() < WAITING {
            waiting.push(sample);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rows at `turn`, `turn + stride`, ... of `count`, so that there are at most `most`.
fn strided(count: usize, most: usize, turn: usize) -> impl Iterator<Item = usize> {
    let stride = count.div_ceil(most.max(1)).max(1);
    (turn % stride..count).step_by(stride)
}

/// Rows of a table of floats; `None` where the value is none.
fn table(output: usize, value: &Value, turn: usize) -> Option<Rows<f64>> {
    let &[rows, width] = value.shape() else { return None };
    if rows == 0 || !(2..=WIDEST).contains(&width) {
        return None;
    }
    let chosen = strided(rows, ROWS.min((ELEMENTS / width).max(1)), turn);
    let items = match value.data() {
        Data::F16(items) => copied(items, width, chosen),
        Data::BF16(items) => copied(items, width, chosen),
        Data::F32(items) => copied(items, width, chosen),
        Data::F64(items) => copied(items, width, chosen),
        _ => return None,
    };
    Some(Rows { output, width, items })
}

/// A copy of rows of a table.
fn copied<T: Copy + Into<f64>>(items: &[T], width: usize, rows: impl Iterator<Item = usize>) -> Vec<f64> {
    rows.filter_map(|row| items.get(row * width..(row + 1) * width))
        .flatten()
        .map(|item| (*item).into())
        .collect()
}

/// Elements of a column of integers; `None` where the value is none.
fn column(output: usize, value: &Value, turn: usize) -> Option<Rows<i64>> {
    if !matches!(value.shape(), [_] | [_, 1]) {
        return None;
    }
    let chosen = strided(value.data().len(), ROWS, turn);
    let items = match value.data() {
        Data::I32(items) => chosen.filter_map(|row| items.get(row)).map(|item| i64::from(*item)).collect(),
        Data::I64(items) => chosen.filter_map(|row| items.get(row)).copied().collect(),
        _ => return None,
    };
    Some(Rows { output, width: 1, items })
}

/// Looks at the predictions of one model.
pub struct Predictions {
    /// Gone when the server is.
    sampler: Weak<Sampler>,
    chooser: Chooser,
    /// Confidences of each table's rows, until it is known which holds probabilities.
    undecided: Vec<Vec<Confidence>>,
    names: Vec<Arc<str>>,
    classes: Classes,
}

impl Predictions {
    /// Starts the thread that looks, for as long as the sampler lives. `None` where the model's outputs are of no
    /// classifier's form.
    pub fn start(
        metrics: &PredictionMetrics,
        model: &str,
        version: &str,
        signature: &Signature,
    ) -> std::io::Result<Option<Arc<Sampler>>> {
        let Some((sampler, mut predictions)) = Self::new(metrics, model, version, signature) else {
            return Ok(None);
        };
        std::thread::Builder::new().name("predictions".into()).spawn(move || {
            while predictions.look() {
                std::thread::sleep(LOOK);
            }
        })?;
        Ok(Some(sampler))
    }

    fn new(
        metrics: &PredictionMetrics,
        model: &str,
        version: &str,
        signature: &Signature,
    ) -> Option<(Arc<Sampler>, Self)> {
        let interest = Interest::of(signature);
        if interest.tables.is_empty() && interest.labels.is_none() {
            return None;
        }
        let tables = interest.tables.len();
        let sampler = Arc::new(Sampler::new(interest, metrics.of(&model.into(), &version.into())));
        let predictions = Self {
            sampler: Arc::downgrade(&sampler),
            chooser: Chooser::new(tables),
            undecided: vec![Vec::new(); tables],
            names: signature.outputs.iter().map(|info| info.name.as_str().into()).collect(),
            classes: Classes::default(),
        };
        Some((sampler, predictions))
    }

    /// Looks at all that waits. False when there is no server any more.
    fn look(&mut self) -> bool {
        let Some(sampler) = self.sampler.upgrade() else { return false };
        let waiting = std::mem::take(&mut *sampler.lock());
        for Sample { rows, tables, labels } in waiting {
            sampler.series.examined.inc_by(rows as u64);
            let named = labels.is_some();
            if let Some(labels) = labels {
                self.count_classes(&sampler, labels.output, labels.items.into_iter());
            }
            for table in tables {
                self.table(&sampler, &table, named);
            }
        }
        true
    }

    /// Looks at the rows of a table. When no output `named` classes, the most probable ones are counted.
    fn table(&mut self, sampler: &Sampler, table: &Rows<f64>, named: bool) {
        let Some(candidate) = sampler.interest.tables.iter().position(|output| *output == table.output)
        else {
            return;
        };
        // Which table holds probabilities is not decided by rows that hold no numbers: those say something of their inputs.
        let open = sampler.chosen.get().is_none();
        let rows = table.items.chunks_exact(table.width.max(1));
        let rows: Vec<_> = rows.filter(|row| !open || row.iter().all(|item| item.is_finite())).collect();
        let count = rows.len() as u64;
        let confident: Vec<_> = rows.iter().filter_map(|row| Confidence::of(row.iter().copied())).collect();
        match sampler.chosen.get() {
            Some(chosen) if *chosen == Some(table.output) => {
                self.confident(sampler, table.output, count, &confident, named);
            }
            // Sampled before another was chosen.
            Some(_) => {}
            None => {
                self.chooser.see(candidate, count, confident.len() as u64);
                if let Some(undecided) = self.undecided.get_mut(candidate) {
                    let room = MOST_UNDECIDED.saturating_sub(undecided.len());
                    undecided.extend(confident.into_iter().take(room));
                }
                self.choose(sampler, named);
            }
        }
    }

    /// Says which table holds probabilities, as soon as that is known.
    fn choose(&mut self, sampler: &Sampler, named: bool) {
        let chosen = match self.chooser.choice() {
            Choice::Open => return,
            Choice::Nothing => None,
            Choice::Candidate(candidate) => {
                sampler.interest.tables.get(candidate).map(|output| (candidate, *output))
            }
        };
        let _ = sampler.chosen.set(chosen.map(|(_, output)| output));
        let mut undecided = std::mem::take(&mut self.undecided);
        let Some((candidate, output)) = chosen else {
            tracing::info!("no output of the model holds probabilities: its confidence is not measured");
            return;
        };
        let name = self.name(output);
        tracing::info!(
            output = &*name,
            "an output of the model holds probabilities: its confidence is measured"
        );
        if let Some(rows) = undecided.get_mut(candidate) {
            let rows = std::mem::take(rows);
            self.confident(sampler, output, rows.len() as u64, &rows, named);
        }
    }

    /// Counts the rows of the chosen table.
    fn confident(
        &mut self,
        sampler: &Sampler,
        output: usize,
        rows: u64,
        confident: &[Confidence],
        named: bool,
    ) {
        let name = self.name(output);
        sampler.series.confident(&name, confident);
        let unfit = rows.saturating_sub(confident.len() as u64);
        if unfit > 0 {
            sampler.series.unfit(&name, unfit);
        }
        if !named {
            let classes = confident.iter().filter_map(|row| i64::try_from(row.class).ok());
            self.count_classes(sampler, output, classes);
        }
    }

    /// Counts classes. Which are told apart is decided over all that were seen, so the counts are put in as differences.
    fn count_classes(&mut self, sampler: &Sampler, output: usize, classes: impl Iterator<Item = i64>) {
        let name = self.name(output);
        let mut seen = Classes::default();
        for class in classes {
            if self.classes.record(class) {
                seen.record(class);
            } else {
                sampler.series.class(&name, None, 1);
            }
        }
        for (class, rows) in seen.named() {
            sampler.series.class(&name, Some(class), rows);
        }
    }

    fn name(&self, output: usize) -> Arc<str> {
        self.names.get(output).cloned().unwrap_or_else(|| "".into())
    }
}

#[cfg(test)]
mod tests;
