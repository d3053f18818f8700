//! Silences of an Alertmanager: which alerts somebody wants to hear nothing of.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use stoker_decide::text::cut;

/// Longest compiled expression, in bytes.
const LARGEST_REGEX: usize = 1 << 20;
/// Longest comment that is passed on, in bytes.
const LONGEST_COMMENT: usize = 80;

/// A silence that holds.
#[derive(Clone, Debug)]
pub struct Silence {
    matchers: Vec<Matcher>,
    /// Who made it, and why.
    pub why: String,
}

#[derive(Clone, Debug)]
struct Matcher {
    label: String,
    pattern: Pattern,
    equal: bool,
}

#[derive(Clone, Debug)]
enum Pattern {
    Text(String),
    Regex(Regex),
}

/// A silence, as Alertmanager tells it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    matchers: Vec<ToldMatcher>,
    status: Status,
    #[serde(default)]
    created_by: String,
    #[serde(default)]
    comment: String,
}

#[derive(Deserialize)]
struct Status {
    state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToldMatcher {
    name: String,
    value: String,
    #[serde(default)]
    is_regex: bool,
    #[serde(default = "yes")]
    is_equal: bool,
}

fn yes() -> bool {
    true
}

impl Silence {
    /// The silence, where it holds now. One whose expression cannot be read silences nothing.
    pub fn active(told: Told) -> Option<Self> {
        if told.status.state != "active" {
            return None;
        }
        let matcher = |told: ToldMatcher| {
            let pattern = if told.is_regex {
                let anchored = format!("^(?:{})$", told.value);
                Pattern::Regex(RegexBuilder::new(&anchored).size_limit(LARGEST_REGEX).build().ok()?)
            } else {
                Pattern::Text(told.value)
            };
            Some(Matcher { label: told.name, pattern, equal: told.is_equal })
        };
        let matchers = told.matchers.into_iter().map(matcher).collect::<Option<Vec<_>>>()?;
        let why =
            format!("by {}: {}", cut(&told.created_by, LONGEST_COMMENT), cut(&told.comment, LONGEST_COMMENT));
        Some(Self { matchers, why })
    }

    /// Whether it is about an alert with these labels. A label that is not there is an empty one.
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.matchers.is_empty()
            && self.matchers.iter().all(|matcher| {
                let value = labels.get(&matcher.label).map_or("", String::as_str);
                let matches = match &matcher.pattern {
                    Pattern::Text(text) => text == value,
                    Pattern::Regex(regex) => regex.is_match(value),
                };
                matches == matcher.equal
            })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn silence(state: &str, matchers: &serde_json::Value) -> Option<Silence> {
        let told =
            json!({"matchers": matchers, "status": {"state": state}, "createdBy": "ann", "comment": "known"});
        Silence::active(serde_json::from_value(told).unwrap())
    }

    #[test]
    fn a_silence_holds_for_the_labels_that_it_names() {
        let labels = |text: &str| {
            let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
            pairs.map(|(label, value)| (label.to_owned(), value.to_owned())).collect()
        };
        let exact = json!({"name": "alertname", "value": "Wrong", "isRegex": false, "isEqual": true});
        let cases = [
            (json!([exact]), "alertname=Wrong,pod=x", true),
            (json!([exact]), "alertname=Wrongs", false),
            // Of releases before `isEqual`.
            (json!([{"name": "alertname", "value": "Wrong"}]), "alertname=Wrong", true),
            (json!([exact, {"name": "pod", "value": "x"}]), "alertname=Wrong", false),
            (json!([{"name": "pod", "value": "x|y", "isRegex": true}]), "pod=y", true),
            (json!([{"name": "pod", "value": "x|y", "isRegex": true}]), "pod=xy", false),
            (json!([{"name": "pod", "value": "x", "isEqual": false}]), "pod=y", true),
            (json!([{"name": "pod", "value": "x", "isEqual": false}]), "pod=x", false),
            (json!([{"name": "pod", "value": ""}]), "alertname=Wrong", true),
            (json!([]), "alertname=Wrong", false),
        ];
        for (matchers, text, wanted) in cases {
            let silence = silence("active", &matchers).unwrap();
            assert_eq!(silence.holds(&labels(text)), wanted, "{matchers}: {text}");
            assert_eq!(silence.why, "by ann: known");
        }
    }

    #[test]
    fn one_that_is_over_or_cannot_be_read_silences_nothing() {
        assert!(silence("expired", &json!([{"name": "pod", "value": "x"}])).is_none());
        assert!(silence("active", &json!([{"name": "pod", "value": "(", "isRegex": true}])).is_none());
        assert!(
            silence("active", &json!([{"name": "pod", "value": r"\w{5000}", "isRegex": true}])).is_none()
        );
    }
}
