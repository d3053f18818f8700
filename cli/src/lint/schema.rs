//! The structural schema of a CRD, checked as the API server checks it: unknown fields, types, bounds, required fields.
//!
//! It knows the keywords that our CRDs use, and a test fails when they use another one.

use serde_json::{Map, Value};

use super::Remark;

/// Keywords that are checked here, by the rules of the CRD, or that say nothing about what is allowed.
#[cfg(test)]
pub const KEYWORDS: [&str; 22] = [
    "additionalProperties",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "nullable",
    "pattern",
    "properties",
    "required",
    "title",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

/// Checks an object against the schema of its kind.
pub fn check(schema: &Value, object: &Value) -> Vec<Remark> {
    let mut found = Vec::new();
    walk(schema, object, "", &mut found);
    found
}

/// What every object must have, which no CRD's schema says.
pub fn metadata(object: &Value) -> Vec<Remark> {
    let mut found = Vec::new();
    let name = object.pointer("/metadata/name");
    if object.pointer("/metadata/generateName").is_none()
        && name.and_then(Value::as_str).is_none_or(str::is_empty)
    {
        found.push(Remark::error("required", "metadata.name", "it has no name", "give it a metadata.name"));
    }
    for kind in ["annotations", "labels"] {
        let entries = object.pointer(&format!("/metadata/{kind}")).and_then(Value::as_object);
        for (key, value) in entries.into_iter().flatten().filter(|(_, value)| !value.is_string()) {
            let message = format!("{} is no text", shown(value));
            let hint = "put it in quotes: annotations and labels are texts";
            found.push(Remark::error("type", format!("metadata.{kind}.{key}"), message, hint));
        }
    }
    found
}

fn walk(schema: &Value, value: &Value, path: &str, found: &mut Vec<Remark>) {
    let flag = |name: &str| schema.get(name).and_then(Value::as_bool) == Some(true);
    if value.is_null() {
        // What is null and may not be takes the default, if there is one.
        if !flag("nullable") && schema.get("default").is_none() {
            let message = "it is empty (null)".to_owned();
            found.push(Remark::error("type", path, message, "give it a value, or leave the field out"));
        }
        return;
    }
    let wanted = schema.get("type").and_then(Value::as_str);
    if flag("x-kubernetes-int-or-string") {
        if !(value.is_string() || value.is_i64() || value.is_u64()) {
            let message = format!("{} is neither a whole number nor a text", shown(value));
            found.push(Remark::error("type", path, message, "write a number, or a text in quotes"));
        }
    } else if let Some(wanted) = wanted
        && !is_of(wanted, value)
    {
        let message = format!("{} is not {}", shown(value), article(wanted));
        found.push(Remark::error("type", path, message, hint_of_type(wanted, value)));
        return;
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let allowed: Vec<_> = allowed.iter().filter(|one| !one.is_null()).map(shown).collect();
        let hint = format!("choose one of {}", allowed.join(", "));
        found.push(Remark::error("enum", path, format!("{} is not known", shown(value)), hint));
    }
    bounds(schema, value, path, found);
    match value {
        Value::Object(map) => fields(schema, map, path, found),
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                for (at, item) in items.iter().enumerate() {
                    walk(schema, item, &format!("{path}[{at}]"), found);
                }
            }
        }
        _ => {}
    }
}

fn fields(schema: &Value, map: &Map<String, Value>, path: &str, found: &mut Vec<Remark>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let others = schema.get("additionalProperties").filter(|others| others.is_object());
    let keeps = schema.get("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool) == Some(true);
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    for name in required.filter_map(Value::as_str).filter(|name| map.get(*name).is_none_or(Value::is_null)) {
        found.push(Remark::error(
            "required",
            below(name),
            "it is missing",
            format!("give {} a value", below(name)),
        ));
    }
    for (name, value) in map {
        match properties.get(name).or(others) {
            Some(schema) => walk(schema, value, &below(name), found),
            // The API server itself knows what every object has.
            None if path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&name.as_str()) => {}
            None if keeps || (properties.is_empty() && path == "metadata") => {}
            None => {
                let hint = match near(name, properties.keys()) {
                    Some(meant) => format!("did you mean {meant}?"),
                    None => {
                        format!("there are {}", properties.keys().cloned().collect::<Vec<_>>().join(", "))
                    }
                };
                found.push(Remark::error("unknown-field", below(name), "there is no such field", hint));
            }
        }
    }
}

fn bounds(schema: &Value, value: &Value, path: &str, found: &mut Vec<Remark>) {
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let (size, least, most, what) = match value {
        Value::String(text) => (text.chars().count() as f64, "minLength", "maxLength", "characters"),
        Value::Array(items) => (items.len() as f64, "minItems", "maxItems", "entries"),
        Value::Object(map) => (map.len() as f64, "minProperties", "maxProperties", "entries"),
        Value::Number(number) => (number.as_f64().unwrap_or_default(), "minimum", "maximum", ""),
        _ => return,
    };
    let said =
        |size: f64| if what.is_empty() { shown(value) } else { format!("it has {size} {what}, which") };
    if let Some(least) = bound(least).filter(|least| size < *least) {
        let message = format!("{} is less than {least}", said(size));
        found.push(Remark::error(
            "bounds",
            path,
            message,
            format!("give it at least {least} {what}").trim_end(),
        ));
    }
    if let Some(most) = bound(most).filter(|most| size > *most) {
        let message = format!("{} is more than {most}", said(size));
        found.push(Remark::error(
            "bounds",
            path,
            message,
            format!("give it at most {most} {what}").trim_end(),
        ));
    }
}

fn is_of(type_: &str, value: &Value) -> bool {
    match type_ {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        // `2.0` is an integer to JSON schema, and to the API server.
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        "number" => value.is_number(),
        _ => true,
    }
}

fn article(type_: &str) -> &'static str {
    match type_ {
        "object" => "a map of fields",
        "array" => "a list",
        "string" => "a text",
        "boolean" => "true or false",
        "integer" => "a whole number",
        _ => "a number",
    }
}

fn hint_of_type(wanted: &str, value: &Value) -> &'static str {
    match (wanted, value) {
        ("string", Value::Number(_) | Value::Bool(_)) => "put it in quotes",
        ("integer" | "number", Value::String(_)) => "write the number without quotes and without a unit",
        ("array", _) => "write a list: each entry with a dash before it",
        ("object", _) => "write fields, each in a line of its own, or {} for none",
        _ => "write another value",
    }
}

/// A value as it may stand in a sentence.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Object(_) => "a map of fields".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => other.to_string(),
    };
    if text.chars().count() > 60 { format!("{}…", text.chars().take(60).collect::<String>()) } else { text }
}

/// The name that was likely meant: two edits away at most, and fewer than half of its letters.
fn near<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    let folded = |text: &str| text.to_ascii_lowercase().replace(['-', '_'], "");
    known
        .map(|known| (edits(&folded(name), &folded(known)), known.as_str()))
        .filter(|(edits, known)| *edits <= 2 && edits * 2 < known.len())
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein's distance.
fn edits(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (corner + usize::from(a != *b)).min(above + 1).min(row[j] + 1);
            corner = above;
        }
    }
    row[other.len()]
}
