//! YAML documents with the lines of their fields.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// A document.
pub struct Document {
    /// What it says.
    pub value: Value,
    lines: BTreeMap<String, u64>,
}

impl Document {
    /// The line of a field, or of the nearest one around it that is written.
    pub fn line(&self, field: &str) -> Option<u64> {
        let mut path = field;
        loop {
            if let Some(line) = self.lines.get(path) {
                return Some(*line);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

/// Why a text is no YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Where.
    pub line: Option<u64>,
    /// In which document.
    pub document: usize,
    /// What the parser says.
    pub message: String,
}

/// The documents of a text. Empty ones are none.
pub fn documents(text: &str) -> Result<Vec<Document>, Wrong> {
    let options = serde_saphyr::options! {
        // A snippet of the file would break the one line that a finding has.
        with_snippet: false,
        // Far more than a manifest has, and little enough that aliases of aliases end soon.
        budget: serde_saphyr::budget! { max_events: 200_000, max_nodes: 100_000 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 20_000 },
    };
    let nodes: Vec<Spanned<Node>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
            let line = error.location().map(|location| location.line());
            let before = line.and_then(|line| usize::try_from(line).ok()).unwrap_or_default();
            let starts = text.lines().take(before).filter(|line| line.trim_end() == "---").count();
            let opened = text.trim_start().starts_with("---");
            let message = error.to_string().lines().next().unwrap_or_default().to_owned();
            Wrong { line, document: if opened { starts.max(1) } else { starts + 1 }, message }
        })?;
    Ok(nodes
        .into_iter()
        .map(|node| {
            let mut lines = BTreeMap::from([(String::new(), node.referenced.line())]);
            let value = node.value.into_value("", &mut lines);
            Document { value, lines }
        })
        .collect())
}

/// A node with the places of what is below it.
enum Node {
    Leaf(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Node)>),
}

impl Node {
    fn into_value(self, path: &str, lines: &mut BTreeMap<String, u64>) -> Value {
        match self {
            Self::Leaf(value) => value,
            Self::List(items) => {
                let items = items.into_iter().enumerate().map(|(at, item)| {
                    let path = format!("{path}[{at}]");
                    lines.insert(path.clone(), item.referenced.line());
                    item.value.into_value(&path, lines)
                });
                Value::Array(items.collect())
            }
            Self::Map(entries) => {
                let mut map = Map::new();
                for (key, node) in entries {
                    let path =
                        if path.is_empty() { key.value.clone() } else { format!("{path}.{}", key.value) };
                    lines.insert(path.clone(), key.referenced.line());
                    map.insert(key.value, node.into_value(&path, lines));
                }
                Value::Object(map)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value that JSON has, too")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Leaf(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Leaf(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Leaf(value.into()))
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
                // JSON, which the API server is sent, has neither.
                let number = Number::from_f64(value);
                number
                    .map(|number| Node::Leaf(number.into()))
                    .ok_or_else(|| E::custom("a number must be finite"))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Leaf(value.into()))
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Leaf(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Leaf(Value::Null))
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
                Node::deserialize(deserializer)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    map.push(entry);
                }
                Ok(Node::Map(map))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_have_their_lines() {
        let text =
            "# first\na: 1\n---\nspec:\n  steps:\n    - {weight: 10}\n    - weight: 50\n      duration: 1m\n";
        let documents = documents(text).unwrap();
        assert_eq!(
            documents[1].value,
            json!({"spec": {"steps": [{"weight": 10}, {"weight": 50, "duration": "1m"}]}})
        );
        let cases = [
            ("spec", 4),
            ("spec.steps", 5),
            ("spec.steps[0].weight", 6),
            ("spec.steps[1].duration", 8),
            ("spec.steps[1].shadow", 7),
            ("spec.traffic.hosts", 4),
            ("", 4),
        ];
        for (field, line) in cases {
            assert_eq!(documents[1].line(field), Some(line), "{field}");
        }
    }

    #[test]
    fn values_are_what_the_api_server_would_be_sent() {
        let text = "{a: yes-no, b: '1', c: 1.5, d: null, e: true, f: [x, ~], g: 18446744073709551615, 1: y}";
        // kubectl takes `y` for true, too.
        let wanted = json!({"a": "yes-no", "b": "1", "c": 1.5, "d": null, "e": true, "f": ["x", null],
            "g": 18_446_744_073_709_551_615_u64, "1": true});
        assert_eq!(documents(text).unwrap()[0].value, wanted);
        assert_eq!(documents("---\n---\n\n").unwrap().len(), 0);
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        for (text, line, document) in
            [("a: [1\n", 1, 1), ("a: 1\n---\nb: 1\nb: 2\n", 4, 2), ("a: .inf", 1, 1)]
        {
            let wrong = documents(text).err().unwrap();
            assert_eq!((wrong.line, wrong.document), (Some(line), document), "{text}: {}", wrong.message);
            assert!(!wrong.message.contains('\n'));
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{}", level - 1);
            let list = vec![before; 10].join(", ");
            text = format!("{text}a{level}: &a{level} [{list}]\n");
        }
        assert!(documents(&text).is_err());
        assert!(documents(&"[".repeat(10_000)).is_err());
    }
}
