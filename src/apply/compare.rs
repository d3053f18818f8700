//! Whether an object is as we want it. Pure.

use serde_json::{Map, Value};

/// Decimal and binary suffixes of a quantity: the factor is a power of ten, or of two.
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// Whether everything that `desired` sets is so in `live`. What the API server or others added is not looked at.
///
/// A field that was wanted before and is not now is not seen by this: see [`super::body`].
pub(super) fn covers(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => covers_map(live, desired, covers),
        (Value::Array(live), Value::Array(desired)) => {
            live.len() == desired.len()
                && live.iter().zip(desired).all(|(live, desired)| covers(live, desired))
        }
        _ => live == desired,
    }
}

fn covers_map(
    live: &Map<String, Value>,
    desired: &Map<String, Value>,
    same: impl Fn(&Value, &Value) -> bool,
) -> bool {
    desired.iter().all(|(key, wanted)| match (live.get(key), wanted) {
        // The API server writes quantities its own way: 0.5 comes back as 500m.
        (Some(Value::Object(live)), Value::Object(wanted)) if key == "requests" || key == "limits" => {
            covers_map(live, wanted, same_quantity)
        }
        (Some(live), wanted) => same(live, wanted),
        (None, wanted) => is_nothing(wanted) || key == "apiVersion" || key == "kind",
    })
}

/// Unset, or an empty list or map, which the API server leaves out.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_nothing),
        _ => false,
    }
}

fn same_quantity(live: &Value, desired: &Value) -> bool {
    live == desired
        || match (live, desired) {
            (Value::String(live), Value::String(desired)) => {
                nanos(live).is_some_and(|live| Some(live) == nanos(desired))
            }
            _ => false,
        }
}

/// A quantity in billionths, rounded up: Kubernetes keeps nothing finer. None for what is no quantity or too large.
fn nanos(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && !"+-.".contains(c)).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let power = |of: &str| Some(DECIMAL.iter().find(|(name, _)| *name == of)?.1);
    let factor = |of: &str| Some(1_i128 << BINARY.iter().find(|(name, _)| *name == of)?.1);
    let exponent = || suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok();
    let (factor, power) = match factor(suffix) {
        Some(factor) => (factor, 0),
        None => (1, power(suffix).or_else(exponent)?),
    };
    let mantissa = mantissa.checked_mul(factor)?;
    let shift = power.checked_add(9)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let scale = 10_i128.checked_pow(shift.unsigned_abs())?;
    if shift >= 0 {
        return mantissa.checked_mul(scale);
    }
    let finer = i128::from(mantissa % scale > 0);
    Some(mantissa / scale + finer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_we_set_is_compared() {
        let live = json!({"metadata": {"name": "a", "uid": "1"}, "spec": {"replicas": 2, "strategy": {"type": "RollingUpdate"}, "list": [1, 2]}});
        let same = [
            json!({"spec": {"replicas": 2}}),
            json!({"kind": "Deployment", "spec": {"list": [1, 2], "empty": {}, "none": null}}),
        ];
        let different = [
            json!({"spec": {"replicas": 3}}),
            json!({"spec": {"list": [1]}}),
            json!({"spec": {"paused": true}}),
        ];
        assert!(same.iter().all(|desired| covers(&live, desired)));
        assert!(!different.iter().any(|desired| covers(&live, desired)));
    }

    #[test]
    fn quantities_are_compared_by_value_and_nothing_else_is() {
        let container = |cpu: &str, memory: &str, env: &str| {
            let resources = json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu, "memory": memory}});
            json!({"containers": [{"name": "a", "resources": resources, "env": [{"name": "x", "value": env}]}]})
        };
        let live = container("500m", "1Gi", "1");
        assert!(covers(&live, &container("0.5", "1024Mi", "1")));
        for other in
            [container("0.6", "1Gi", "1"), container("500m", "1G", "1"), container("500m", "1Gi", "1.0")]
        {
            assert!(!covers(&live, &other), "{other}");
        }
        // A label may have such a name.
        assert!(!covers(&json!({"limits": "1"}), &json!({"limits": "1.0"})));
    }

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        let same = [
            ("0.5", "500m"),
            ("1024Mi", "1Gi"),
            ("1e3", "1k"),
            ("1E3", "1000"),
            ("1E", "1000P"),
            ("1Ei", "1024Pi"),
            ("0.1Gi", "107374182400m"),
            (".5", "0.5"),
            ("5.", "5"),
            ("+1", "1"),
            ("0.1n", "1n"),
        ];
        for (one, other) in same {
            assert!(nanos(one).is_some() && nanos(one) == nanos(other), "{one} {other}");
        }
        for none in ["", "x", "1Gib", "1 Gi", "--1", "1.2.3", ".", "Gi", "1e", "1e99", &"9".repeat(60)] {
            assert_eq!(nanos(none), None, "{none}");
        }
    }
}
