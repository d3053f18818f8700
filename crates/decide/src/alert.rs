//! Alerts that fire: which ModelDeployment they concern, and what they do to its rollout.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use crate::text::cut;

/// The label with the name of an alert.
const NAME: &str = "alertname";
/// The label with the revision that an alert is about, where it is about one.
const REVISION: &str = "revision";
/// Labels that a sentence names, at most.
const NAMED: usize = 3;
/// Longest name of a label's value in a sentence, in bytes.
const LONGEST: usize = 64;

/// Which alerts are meant, and what they do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The name; none: any.
    pub alert: Option<String>,
    /// Labels that the alert carries, all of them.
    pub labels: BTreeMap<String, String>,
    /// What it does.
    pub action: Action,
}

/// What an alert does while it fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The candidate is taken back; in the guard, stable is.
    Rollback,
    /// The rollout stands still.
    Hold,
}

/// An alert that fires.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firing {
    /// Its labels, with its name among them.
    pub labels: BTreeMap<String, String>,
    /// Who silenced it and why, if somebody did.
    pub silenced: Option<String>,
}

/// An alert that fires and is meant by a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    /// The same for the same alert, and for no other: its name and a digest of its labels.
    pub key: String,
    /// Its name.
    pub alert: String,
    /// What it does; nothing where it is silenced.
    pub action: Option<Action>,
    /// In a sentence.
    pub sentence: String,
}

/// What is known of the alerts that a ModelDeployment declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alerts {
    /// Those that fire.
    pub firing: Vec<Concern>,
    /// Why they cannot be read, if so.
    pub unreadable: Option<String>,
}

/// Whose alerts are looked for.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The label that holds the namespace of whatever an alert is about.
    pub namespace_label: &'a str,
    /// The namespace: an alert without this value is somebody else's.
    pub namespace: &'a str,
    /// The revision that is judged, while there is one: an alert that names another one is not about it.
    pub revision: Option<&'a str>,
}

/// Those of the firing alerts that a rule means, each once.
pub fn concerns(rules: &[Rule], firing: &[Firing], about: About<'_>) -> Vec<Concern> {
    let meant = |alert: &Firing| {
        let ours = alert.labels.get(about.namespace_label).is_some_and(|value| value == about.namespace);
        let named = alert.labels.get(REVISION).filter(|revision| !revision.is_empty());
        let other = named.is_some_and(|named| about.revision.is_some_and(|revision| revision != named));
        let rules = rules.iter().filter(|rule| ours && !other && means(rule, alert));
        // Where two rules mean one alert, the stricter holds.
        rules.map(|rule| rule.action).min()
    };
    firing.iter().filter_map(|alert| Some(concern(alert, meant(alert)?, about))).collect()
}

fn means(rule: &Rule, alert: &Firing) -> bool {
    let named = rule.alert.as_ref().is_none_or(|name| alert.labels.get(NAME) == Some(name));
    named && rule.labels.iter().all(|(label, value)| alert.labels.get(label) == Some(value))
}

fn concern(alert: &Firing, action: Action, about: About<'_>) -> Concern {
    let name = alert.labels.get(NAME).map_or("(without a name)", String::as_str);
    let mut digest = SipHasher13::new();
    for (label, value) in &alert.labels {
        // What separates them is in neither.
        digest.write(label.as_bytes());
        digest.write(&[0]);
        digest.write(value.as_bytes());
        digest.write(&[0]);
    }
    let known = [NAME, REVISION, about.namespace_label];
    let others = alert.labels.iter().filter(|(label, _)| !known.contains(&label.as_str())).take(NAMED);
    let mut labels = String::new();
    for (label, value) in others {
        let comma = if labels.is_empty() { "" } else { ", " };
        let _ = write!(labels, "{comma}{label}={}", cut(value, LONGEST));
    }
    let name = cut(name, 2 * LONGEST);
    let labels = if labels.is_empty() { labels } else { format!(" ({labels})") };
    let silenced = alert.silenced.as_ref().map(|why| format!(", and is silenced: {}", cut(why, 2 * LONGEST)));
    Concern {
        key: format!("{name}-{:016x}", digest.finish()),
        alert: name.to_owned(),
        action: alert.silenced.is_none().then_some(action),
        sentence: format!("alert {name} fires{labels}{}", silenced.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs.map(|(label, value)| (label.to_owned(), value.to_owned())).collect()
    }

    fn firing(text: &str) -> Firing {
        Firing { labels: labels(text), silenced: None }
    }

    fn rule(alert: Option<&str>, with: &str, action: Action) -> Rule {
        Rule { alert: alert.map(str::to_owned), labels: labels(with), action }
    }

    const ABOUT: About<'_> =
        About { namespace_label: "namespace", namespace: "team-a", revision: Some("digits-b") };

    #[test]
    fn an_alert_is_matched_by_its_labels_in_its_own_namespace() {
        let rules = [
            rule(Some("TooSlow"), "model_deployment=digits", Action::Rollback),
            rule(None, "severity=page,team=ml", Action::Hold),
        ];
        let cases = [
            ("alertname=TooSlow,namespace=team-a,model_deployment=digits", Some(Action::Rollback)),
            ("alertname=TooSlow,namespace=team-b,model_deployment=digits", None),
            ("alertname=TooSlow,model_deployment=digits", None),
            ("alertname=TooSlow,namespace=team-a,model_deployment=letters", None),
            ("alertname=Other,namespace=team-a,model_deployment=digits", None),
            ("alertname=Other,namespace=team-a,severity=page,team=ml", Some(Action::Hold)),
            ("alertname=Other,namespace=team-a,severity=page", None),
            (
                "alertname=TooSlow,namespace=team-a,model_deployment=digits,severity=page,team=ml",
                Some(Action::Rollback),
            ),
            (
                "alertname=TooSlow,namespace=team-a,model_deployment=digits,revision=digits-b",
                Some(Action::Rollback),
            ),
            ("alertname=TooSlow,namespace=team-a,model_deployment=digits,revision=digits-a", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            let found = concerns(&rules, &[firing(text)], ABOUT);
            assert_eq!(found.first().map(|concern| concern.action), wanted.map(Some), "{text}");
        }
    }

    #[test]
    fn a_silenced_alert_is_told_and_does_nothing() {
        let silenced = Some("by ann: known, see the incident".to_owned());
        let alert = Firing { silenced, ..firing("alertname=TooSlow,namespace=team-a,severity=page") };
        let found = concerns(&[rule(Some("TooSlow"), "", Action::Rollback)], &[alert], ABOUT);
        assert_eq!(found[0].action, None);
        assert_eq!(
            found[0].sentence,
            "alert TooSlow fires (severity=page), and is silenced: by ann: known, see the incident"
        );
    }

    #[test]
    fn keys_tell_alerts_apart_and_sentences_have_an_end() {
        let texts = [
            "alertname=A,namespace=team-a,pod=x",
            "alertname=A,namespace=team-a,pod=y",
            "alertname=A,namespace=team-a,p=odx",
        ];
        let found = concerns(&[rule(Some("A"), "", Action::Hold)], &texts.map(firing), ABOUT);
        let keys: std::collections::BTreeSet<_> = found.iter().map(|concern| &concern.key).collect();
        assert_eq!(keys.len(), 3);
        let long = format!("alertname={0},namespace=team-a,a={0},b={0},c={0},d={0}", "x".repeat(5000));
        let found = concerns(
            &[rule(None, "a=", Action::Hold), rule(None, "", Action::Hold)],
            &[firing(&long)],
            ABOUT,
        );
        assert!(found[0].sentence.len() < 512 && found[0].key.len() < 256, "{}", found[0].sentence);
    }
}
