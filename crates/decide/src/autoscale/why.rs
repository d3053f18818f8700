//! Why a revision has as many pods as it has: the rule, the figures that it was decided from, and the sentence.

use std::time::Duration;

use super::demand::Rate;

/// Why there are as many pods as there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Nothing is known yet: what was there goes on.
    #[default]
    Start,
    /// Demand over capacity.
    Demand,
    /// Demand as it will be when pods are ready.
    Growth,
    /// The percentile was missed over one minute and over five: a pod carries less than was believed.
    Latency,
    /// Fewer were needed for the whole window.
    Quiet,
    /// The user allows other numbers than before.
    Bounds,
    /// No request came for the time after which there are none.
    Idle,
    /// A request came to none.
    Wake,
    /// The signals are missing or contradict each other.
    Hold,
}

impl Rule {
    /// The word for status, Events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "Start",
            Self::Demand => "Demand",
            Self::Growth => "Growth",
            Self::Latency => "Latency",
            Self::Quiet => "Quiet",
            Self::Bounds => "Bounds",
            Self::Idle => "Idle",
            Self::Wake => "Wake",
            Self::Hold => "Hold",
        }
    }
}

/// What a revision's size follows from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Pods for the whole demand.
    pub replicas: u32,
    /// The rule of the last change.
    pub rule: Rule,
    /// Requests per second that count, with the window that they were seen in.
    pub demand: Rate,
    /// Requests per second that gathered in queues, or that growth brings, on top.
    pub ahead: f64,
    /// Requests per second that a pod carries.
    pub capacity: Option<f64>,
    /// The latency percentile of the last minute.
    pub latency: Option<Duration>,
    /// The percentile of nearly idle pods, where it is above the target.
    pub too_slow: Option<Duration>,
}

impl Figures {
    /// Share of the capacity that is used.
    pub fn utilisation(&self) -> Option<f64> {
        let whole = self.capacity? * f64::from(self.replicas);
        (whole > 0.0).then(|| self.demand.per_second / whole)
    }

    /// In a sentence, without the numbers of pods.
    pub fn because(&self) -> String {
        let Figures { demand, ahead, .. } = self;
        let window = demand.window.as_secs_f64().round();
        let demand = format!("{:.1} requests/s over {window} s", demand.per_second);
        let capacity =
            self.capacity.map_or("an unknown number".to_owned(), |per_pod| format!("{per_pod:.1}/s"));
        match self.rule {
            Rule::Start => "nothing is known of the demand yet; what was there goes on".to_owned(),
            Rule::Demand if *ahead > 0.0 => {
                format!("{demand} and {ahead:.1}/s out of queues, of which a pod carries {capacity}")
            }
            Rule::Demand => format!("{demand}, of which a pod carries {capacity}"),
            Rule::Growth => {
                format!(
                    "{demand}, {ahead:.1}/s more by the time that pods are ready, of which a pod carries {capacity}"
                )
            }
            Rule::Latency => {
                format!(
                    "the latency target was missed over one minute and over five; {demand}, of which a pod carries {capacity} by now"
                )
            }
            Rule::Quiet => {
                format!("{demand}, and no more was needed for the whole window; a pod carries {capacity}")
            }
            Rule::Bounds => "scaling.minReplicas and scaling.maxReplicas allow no other number".to_owned(),
            Rule::Idle => "no request came".to_owned(),
            Rule::Wake => "a request came while there were no pods".to_owned(),
            Rule::Hold => "the signals are missing or contradict each other".to_owned(),
        }
    }
}

/// A revision has more or fewer pods from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The revision.
    pub revision: String,
    /// Pods before.
    pub from: u32,
    /// Pods from now on.
    pub to: u32,
    /// The rule.
    pub rule: Rule,
    /// Why, in a sentence.
    pub because: String,
}
