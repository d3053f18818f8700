//! PromQL that a namespaced object holds, before it goes to a Prometheus of the whole cluster: its placeholders are filled in, it is
//! read, and each of its selectors is bound to one namespace, so that nobody reads what belongs to another team.
//!
//! ```
//! use stoker_query::{Bound, Fill, prepare};
//!
//! let fill = Fill { revision: "digits-b", stable: "digits-a", name: "digits", namespace: "team-a" };
//! let bound = Bound { label: "namespace", value: "team-a" };
//! let query = prepare(r#"sum(rate(orders_total{revision="$revision"}[1m]))"#, &fill, Some(bound)).unwrap();
//! assert_eq!(query.value, r#"sum(rate(orders_total{namespace="team-a",revision="digits-b"}[1m]))"#);
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::value::ValueType;
use promql_parser::parser::{self, Expr, VectorSelector};

/// How far back Prometheus looks for the last sample of a series, by default.
const LOOKBACK: Duration = Duration::from_mins(5);
/// Selectors that a query may have: each costs a look at its series' newest samples.
const SELECTORS: usize = 16;
/// Longest text, in bytes.
const LONGEST: usize = 4096;
/// Regular expressions that a query may have: each may take megabytes while it is read.
const REGEXES: usize = 6;
/// Stack of the thread that reads, in bytes.
const STACK: usize = 32 << 20;
/// Queries are read one at a time, for their memory.
static ONE: Mutex<()> = Mutex::new(());
/// Points at which the newest sample of a long range is looked for.
const POINTS: u32 = 100;

/// What placeholders stand for.
#[derive(Clone, Copy, Debug)]
pub struct Fill<'a> {
    /// `$revision`: the revision that is judged.
    pub revision: &'a str,
    /// `$stable`: the one that it is compared with.
    pub stable: &'a str,
    /// `$name`: the ModelDeployment.
    pub name: &'a str,
    /// `$namespace`: its namespace.
    pub namespace: &'a str,
}

impl Fill<'_> {
    /// Names that stand for any: to look at a query before there is a rollout.
    pub const SAMPLE: Fill<'static> =
        Fill { revision: "revision", stable: "stable", name: "name", namespace: "namespace" };

    fn get(&self, name: &str) -> Option<&str> {
        match name {
            "revision" => Some(self.revision),
            "stable" => Some(self.stable),
            "name" => Some(self.name),
            "namespace" => Some(self.namespace),
            _ => None,
        }
    }
}

/// A label that all series must have with one value.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// Its name.
    pub label: &'a str,
    /// Its value.
    pub value: &'a str,
}

/// What Prometheus is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// For the value.
    pub value: String,
    /// For the age, in seconds, of the newest sample that it is made from: that of the selector whose newest one is oldest. None
    /// where the query selects nothing by the present time.
    pub age: Option<String>,
}

/// Why a query cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// An unknown placeholder.
    #[error("there is no ${0}; there are $revision, $stable, $name and $namespace")]
    Placeholder(String),
    /// A name that could be more than a value.
    #[error("{0:?} cannot stand in a query")]
    Name(String),
    /// It is not PromQL.
    #[error("it is not PromQL: {0}")]
    Syntax(String),
    /// It is PromQL, and not for this.
    #[error("{0}")]
    Unfit(String),
}

/// Fills in, reads and bounds a query.
///
/// # Errors
/// What is wrong with it, in words for whoever wrote it.
pub fn prepare(text: &str, fill: &Fill<'_>, bound: Option<Bound<'_>>) -> Result<Query, QueryError> {
    let regexes = text.matches("=~").count() + text.matches("!~").count();
    if text.len() > LONGEST || regexes > REGEXES {
        return Err(QueryError::Unfit(format!(
            "it is longer than {LONGEST} bytes or has more than {REGEXES} regular expressions; record a part of it by a rule"
        )));
    }
    let filled = filled(text, fill)?;
    // The parser panics at some numbers, and goes as deep as the text does: neither may end the process.
    let one_at_a_time = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let read = std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || bind(&filled, bound));
        thread.ok().and_then(|thread| thread.join().ok())
    });
    drop(one_at_a_time);
    read.unwrap_or_else(|| Err(QueryError::Syntax("a number in it is beyond what can be".into())))
}

/// Reads and bounds a query.
fn bind(text: &str, bound: Option<Bound<'_>>) -> Result<Query, QueryError> {
    let mut expr = parse(text)?;
    if !matches!(expr.value_type(), ValueType::Vector | ValueType::Scalar) {
        return Err(QueryError::Unfit(format!(
            "its result is a {}, where one number is wanted; a range needs a function such as rate()",
            expr.value_type()
        )));
    }
    let mut walk = Walk { bound, fresh: BTreeSet::new(), selectors: 0 };
    walk.visit(&mut expr, true)?;
    let value = expr.to_string();
    // Compiled regular expressions are large: never twice at a time.
    drop(expr);
    // What is sent is the printed form: it must say the same when it is read.
    if parse(&value)?.to_string() != value {
        return Err(QueryError::Unfit(format!(
            "it cannot be sent: printed again it is {value}, which says something else"
        )));
    }
    Ok(Query { value, age: age(&walk.fresh) })
}

/// What is wrong with a query, as far as that can be told without a cluster.
///
/// # Errors
/// As [`prepare`].
pub fn check(text: &str) -> Result<(), QueryError> {
    prepare(text, &Fill::SAMPLE, Some(Bound { label: "namespace", value: "namespace" })).map(drop)
}

fn parse(text: &str) -> Result<Expr, QueryError> {
    parser::parse(text).map_err(QueryError::Syntax)
}

/// A `$` before a letter starts a placeholder; any other is one of a regular expression.
fn filled(text: &str, fill: &Fill<'_>) -> Result<String, QueryError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let end = after.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(after.len());
        let (name, others) = after.split_at(end);
        if name.is_empty() {
            out.push('$');
        } else {
            let value = fill.get(name).ok_or_else(|| QueryError::Placeholder(name.to_owned()))?;
            if !value.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_')) {
                return Err(QueryError::Name(value.to_owned()));
            }
            out.push_str(value);
        }
        rest = others;
    }
    out.push_str(rest);
    Ok(out)
}

/// Goes through all of an expression.
struct Walk<'a> {
    bound: Option<Bound<'a>>,
    /// For the time of the newest sample of each selector.
    fresh: BTreeSet<String>,
    selectors: usize,
}

impl Walk<'_> {
    /// `now`: what is selected here is selected by the present time.
    fn visit(&mut self, expr: &mut Expr, now: bool) -> Result<(), QueryError> {
        match expr {
            Expr::Aggregate(aggregate) => {
                self.visit(&mut aggregate.expr, now)?;
                aggregate.param.as_deref_mut().map_or(Ok(()), |param| self.visit(param, now))
            }
            Expr::Unary(unary) => self.visit(&mut unary.expr, now),
            Expr::Binary(binary) => {
                self.visit(&mut binary.lhs, now)?;
                self.visit(&mut binary.rhs, now)
            }
            Expr::Paren(paren) => self.visit(&mut paren.expr, now),
            Expr::Subquery(subquery) => {
                let here = now && subquery.at.is_none() && subquery.offset.is_none();
                self.visit(&mut subquery.expr, here)
            }
            Expr::Call(call) if call.func.name == "info" => Err(QueryError::Unfit(
                "info() reads series that the query does not name, and those cannot be kept to one namespace; join them by `* on (...) group_left (...)`".into(),
            )),
            Expr::Call(call) => call.args.args.iter_mut().try_for_each(|argument| self.visit(argument, now)),
            Expr::VectorSelector(selector) => self.select(selector, None, now),
            Expr::MatrixSelector(matrix) => {
                let range = matrix.range;
                self.select(&mut matrix.vs, Some(range), now)
            }
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Ok(()),
            Expr::Extension(_) => Err(QueryError::Unfit("it uses an extension of PromQL".into())),
        }
    }

    fn select(
        &mut self,
        selector: &mut VectorSelector,
        range: Option<Duration>,
        now: bool,
    ) -> Result<(), QueryError> {
        self.selectors += 1;
        if self.selectors > SELECTORS {
            return Err(QueryError::Unfit(format!(
                "it has more than {SELECTORS} selectors; record a part of it by a rule"
            )));
        }
        if !selector.matchers.or_matchers.is_empty() {
            return Err(QueryError::Unfit(
                "`or` between the labels of one selector is no PromQL of Prometheus".into(),
            ));
        }
        if let Some(Bound { label, value }) = self.bound {
            let matchers = &mut selector.matchers.matchers;
            let other = matchers.iter().find(|matcher| matcher.name == label && !matcher.is_match(value));
            if let Some(other) = other {
                return Err(QueryError::Unfit(format!(
                    "{other} asks for another namespace; only series with {label}=\"{value}\" are read"
                )));
            }
            matchers.retain(|matcher| matcher.name != label);
            matchers.push(Matcher::new(MatchOp::Equal, label, value));
        }
        // As they are printed, so that what is printed can be compared.
        selector.matchers.matchers.sort_by_cached_key(ToString::to_string);
        if now && selector.at.is_none() && selector.offset.is_none() {
            self.fresh.insert(newest(selector, range));
        }
        Ok(())
    }
}

/// The time of the newest sample of a selector. An instant selector finds what is up to five minutes old; the range may be longer.
fn newest(selector: &VectorSelector, range: Option<Duration>) -> String {
    match range.filter(|range| *range > LOOKBACK) {
        None => format!("max(timestamp({selector}))"),
        Some(range) => {
            let step = (range / POINTS).max(Duration::from_secs(30)).as_secs();
            format!("max(max_over_time(timestamp({selector})[{}s:{step}s]))", range.as_secs())
        }
    }
}

/// How old the newest sample of the selector is that has the oldest. Those without any series say nothing: the value tells.
fn age(fresh: &BTreeSet<String>) -> Option<String> {
    if fresh.is_empty() {
        return None;
    }
    let mut all = String::new();
    for (number, newest) in fresh.iter().enumerate() {
        let or = if number == 0 { "" } else { " or " };
        let _ = write!(all, "{or}label_replace({newest},\"n\",\"{number}\",\"\",\"\")");
    }
    Some(format!("time() - min({all})"))
}

#[cfg(test)]
mod tests;
