//! `stoker-server MODEL.onnx`: the short form of `serve`, for a person with a file and no cluster.

use std::ffi::OsString;
use std::path::Path;

use reqwest::Url;

/// What the first word may be besides a model.
const COMMANDS: [&str; 4] = ["serve", "resolve", "fetch", "help"];
/// The name of a model whose file name has no letter that a name may have.
const NAMELESS: &str = "model";

/// The command line with `serve` spelled out, where its first word is a model: a path or a URI. Options may follow it and
/// win over what is put in here. Any other command line stays what it is.
pub fn spelled_out(arguments: Vec<OsString>) -> Vec<OsString> {
    let Some(model) = arguments.get(1).and_then(|word| word.to_str()) else { return arguments };
    if model.is_empty() || model.starts_with('-') || COMMANDS.contains(&model) {
        return arguments;
    }
    let Some(uri) = uri(model) else { return arguments };
    let mut words = arguments.into_iter();
    let program = words.next();
    let rest: Vec<OsString> = words.skip(1).collect();
    let given = |option: &str| {
        rest.iter().filter_map(|word| word.to_str()).any(|word| word.split('=').next() == Some(option))
    };
    let mut spelled: Vec<OsString> = program.into_iter().collect();
    spelled.push("serve".into());
    if !given("--model-name") {
        spelled.extend(["--model-name".into(), name(&uri).into()]);
    }
    spelled.extend(["--model-uri".into(), uri.into()]);
    // No router has to learn that this process goes away.
    if !given("--drain-delay") {
        spelled.extend(["--drain-delay".into(), "0s".into()]);
    }
    spelled.extend(rest);
    spelled
}

/// The URI of a model: the word itself where it is one, else that of a file on this machine.
fn uri(model: &str) -> Option<String> {
    if model.contains("://") {
        return Some(model.to_owned());
    }
    let path = std::path::absolute(model).ok()?;
    Url::from_file_path(path).ok().map(String::from)
}

/// A model's name from its file's: without the ending, and with hyphens for what a name cannot have. Only the path counts: a host
/// says nothing about the model, and a user and a password are nobody's to see.
fn name(uri: &str) -> String {
    let Ok(url) = Url::parse(uri) else { return NAMELESS.to_owned() };
    let stem = Path::new(url.path()).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let letter = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let name: String = stem.chars().map(letter).take(253).collect();
    if name.chars().any(|c| c.is_ascii_alphanumeric()) { name } else { NAMELESS.to_owned() }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::{Cli, Command};

    fn spelled(line: &str) -> Vec<String> {
        let words = line.split_whitespace().map(OsString::from).collect();
        spelled_out(words).into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_served_under_its_own_name() {
        let Ok(Cli { command: Command::Serve(serve) }) =
            Cli::try_parse_from(spelled("stoker-server /models/digits_v2.onnx --threads 1"))
        else {
            panic!("no `serve`");
        };
        assert_eq!((serve.model_name.as_str(), serve.threads), ("digits_v2", Some(1)));
        assert_eq!(serve.source.model_uri.to_string(), "file:///models/digits_v2.onnx");
        assert!(serve.drain_delay.is_zero());
    }

    #[test]
    fn uris_are_taken_and_options_win() {
        let line = "stoker-server https://models.example/a%20b.onnx?x=1 --model-name=c --drain-delay 1s";
        let words = spelled(line);
        assert_eq!(
            words[1..],
            [
                "serve",
                "--model-uri",
                "https://models.example/a%20b.onnx?x=1",
                "--model-name=c",
                "--drain-delay",
                "1s"
            ]
        );
        assert_eq!(name("https://models.example/a%20b.onnx?x=1"), "a-20b");
        assert_eq!(name("file:///%C3%A4.onnx"), "-C3-A4");
        assert_eq!(name("file:///+.onnx"), NAMELESS);
        for nameless in [
            "https://user:hunter2@host",
            "https://user:hunter2@host/",
            "https://user:hunter2@host?a=b",
            "https://user:hunter2@host:99999/a.onnx",
            "https://user:hun/ter2@host",
            "s3://bucket",
        ] {
            assert_eq!(name(nameless), NAMELESS, "{nameless}");
        }
    }

    #[test]
    fn other_command_lines_stay() {
        for line in
            ["stoker-server", "stoker-server serve x", "stoker-server --help", "stoker-server fetch --to x"]
        {
            assert_eq!(spelled(line), line.split_whitespace().collect::<Vec<_>>());
        }
    }
}
