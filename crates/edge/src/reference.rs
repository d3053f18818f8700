//! The pages in docs/metrics: a table of what a registry shows, kept equal to it by a test in each part.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use prometheus_client::registry::Registry;

/// What stands before the generated part of a page.
const MARK: &str = "<!-- generated -->\n";
/// The variable that has pages written instead of compared.
const WRITE: &str = "STOKER_WRITE_DOCS";

/// A family of metrics.
#[derive(Debug, Default)]
struct About {
    help: String,
    kind: String,
    unit: String,
    labels: Vec<String>,
}

/// The families that a registry shows. One without a series has no labels, and shows only where a collector writes it.
#[derive(Debug)]
pub struct Reference(BTreeMap<String, About>);

impl Reference {
    /// Of what the registry shows now.
    pub fn of(registry: &Registry) -> Self {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, registry);
        Self(families(&text))
    }

    /// Names, as Prometheus stores them before suffixes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Fails with the name of a family that `registry` holds and nothing was counted in: without a series it shows no labels, and a page
    /// made of it would leave it out. Families of collectors are not seen.
    pub fn is_whole(&self, registry: &Registry) -> Result<(), String> {
        // What is registered, whether it has a series or not, is in the debug text alone. Prefixes are not.
        let text = format!("{registry:?}");
        let registered =
            text.split("Descriptor { name: \"").skip(1).filter_map(|rest| rest.split('"').next());
        for name in registered {
            if !self.names().any(|shown| shown.ends_with(name)) {
                return Err(format!("nothing was counted in {name}: fill it before"));
            }
        }
        Ok(())
    }

    /// Compares the page at `path` with the registry, or writes its table when `STOKER_WRITE_DOCS` is set.
    pub fn check(&self, path: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let written = std::fs::read_to_string(path).map_err(failed)?;
        let Some((before, after)) = written.split_once(MARK) else {
            return Err(format!("{} has no line `{}`", path.display(), MARK.trim_end()));
        };
        let table = self.table();
        if std::env::var_os(WRITE).is_some() {
            return std::fs::write(path, format!("{before}{MARK}{table}")).map_err(failed);
        }
        let (old, new) = (after.lines(), table.lines());
        let differs = old.zip(new).find(|(old, new)| old != new).map_or("its length", |(_, new)| new);
        if after == table {
            Ok(())
        } else {
            Err(format!("{} is not up to date ({differs}): run `make generate`", path.display()))
        }
    }

    fn table(&self) -> String {
        let mut table = "| name | type | labels | unit | help |\n|---|---|---|---|---|\n".to_owned();
        for (name, About { help, kind, unit, labels }) in &self.0 {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(" ");
            let help = help.replace('|', "\\|");
            // As above.
            let _ = writeln!(table, "| `{name}{suffix}` | {kind} | {labels} | {unit} | {help} |");
        }
        table
    }
}

/// The families of an exposition, by name.
fn families(text: &str) -> BTreeMap<String, About> {
    let mut families = BTreeMap::<String, About>::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let Some((what, (name, rest))) =
                comment.split_once(' ').and_then(|(what, rest)| Some((what, rest.split_once(' ')?)))
            else {
                continue;
            };
            name.clone_into(&mut current);
            let about = families.entry(name.to_owned()).or_default();
            let field = match what {
                "HELP" => &mut about.help,
                "TYPE" => &mut about.kind,
                _ => &mut about.unit,
            };
            rest.trim_end_matches('.').clone_into(field);
        } else if let Some((_, rest)) = line.split_once('{') {
            let labels = rest.rsplit_once('}').map_or(rest, |(labels, _)| labels);
            let Some(about) = families.get_mut(&current) else { continue };
            for label in labels.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0)) {
                if label != "le" && !about.labels.iter().any(|known| known == label) {
                    about.labels.push(label.to_owned());
                }
            }
        }
    }
    families
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;

    use super::*;

    #[test]
    fn a_page_is_compared_with_what_is_shown() {
        let mut registry = Registry::default();
        let asked = Family::<Vec<(String, String)>, Counter>::default();
        asked.get_or_create(&vec![("route".into(), "a,b".into()), ("code".into(), "2xx".into())]).inc();
        registry.register("asked", "Requests | all", asked);
        let reference = Reference::of(&registry);
        assert_eq!(reference.names().collect::<Vec<_>>(), ["asked"]);
        let line = "| `asked_total` | counter | `route` `code` |  | Requests \\| all |\n";
        assert!(reference.table().ends_with(line), "{}", reference.table());
        let path = std::env::temp_dir().join(format!("stoker-reference-{}.md", std::process::id()));
        let check = |rest: &str| {
            std::fs::write(&path, format!("# Head\n{rest}")).unwrap();
            reference.check(&path)
        };
        let written = format!("{MARK}{}", reference.table());
        let found =
            [check(&written), check(&written.replace("2xx", "").replace("Requests", "Answers")), check("")];
        std::fs::remove_file(&path).unwrap();
        assert!(found[0].is_ok(), "{found:?}");
        assert!(found[1].as_ref().unwrap_err().contains("make generate"), "{found:?}");
        assert!(found[2].as_ref().unwrap_err().contains("has no line"), "{found:?}");
    }
}
