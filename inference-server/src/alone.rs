//! `stoker-server MODEL.onnx...`: the short form of `serve`, for a person with files and no cluster.

use std::ffi::OsString;
use std::path::Path;

use reqwest::Url;

/// What the first word may be besides a model.
const COMMANDS: [&str; 4] = ["serve", "resolve", "fetch", "help"];
/// The name of a model whose file name has no letter that a name may have.
const NAMELESS: &str = "model";

/// The command line with `serve` spelled out, where its first words are models: paths or URIs. Options may follow them and
/// win over what is put in here. Any other command line stays what it is.
pub fn spelled_out(arguments: Vec<OsString>) -> Vec<OsString> {
    let words = || arguments.iter().skip(1).map_while(|word| word.to_str());
    if words().next().is_none_or(|first| COMMANDS.contains(&first)) {
        return arguments;
    }
    let Some(uris) = words().take_while(|word| !word.starts_with('-')).map(uri).collect::<Option<Vec<_>>>()
    else {
        return arguments;
    };
    if uris.is_empty() {
        return arguments;
    }
    let mut words = arguments.into_iter();
    let program = words.next();
    let rest: Vec<OsString> = words.skip(uris.len()).collect();
    let given = |option: &str| {
        rest.iter().filter_map(|word| word.to_str()).any(|word| word.split('=').next() == Some(option))
    };
    let mut spelled: Vec<OsString> = program.into_iter().collect();
    spelled.push("serve".into());
    match <[String; 1]>::try_from(uris) {
        Ok([uri]) => {
            if !given("--model-name") {
                spelled.extend(["--model-name".into(), name(&uri).into()]);
            }
            spelled.extend(["--model-uri".into(), uri.into()]);
        }
        Err(uris) => spelled
            .extend(uris.iter().flat_map(|uri| ["--model".into(), format!("{}={uri}", name(uri)).into()])),
    }
    // No router has to learn that this process goes away.
    if !given("--drain-delay") {
        spelled.extend(["--drain-delay".into(), "0s".into()]);
    }
    spelled.extend(rest);
    spelled
}

/// The URI of a model: the word itself where it is one, else that of a file on this machine. None for the empty word.
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
        assert_eq!((serve.model_name.as_deref(), serve.threads), (Some("digits_v2"), Some(1)));
        let uri = serve.model_uri.map(|uri| uri.to_string());
        assert_eq!(uri.as_deref(), Some("file:///models/digits_v2.onnx"));
        assert!(serve.drain_delay.is_zero());
    }

    #[test]
    fn several_files_are_served_each_under_its_own_name() {
        let line = "stoker-server /m/cats.onnx https://h/dogs.onnx?x=1 /n/birds.onnx --threads 1";
        assert_eq!(
            spelled(line)[1..],
            [
                "serve",
                "--model",
                "cats=file:///m/cats.onnx",
                "--model",
                "dogs=https://h/dogs.onnx?x=1",
                "--model",
                "birds=file:///n/birds.onnx",
                "--drain-delay",
                "0s",
                "--threads",
                "1"
            ]
        );
        let models = |line: &str| match Cli::try_parse_from(spelled(line)) {
            Ok(Cli { command: Command::Serve(serve) }) => serve.models(),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(models(line).unwrap().len(), 3);
        // Folders are no part of names.
        assert_eq!(
            models("stoker-server /m/a.onnx /n/a.onnx"),
            Err(crate::config::ModelsError::Twice("a".to_owned()))
        );
        let mended = models("stoker-server /m/a.onnx --model b=file:///n/a.onnx").unwrap();
        assert_eq!(mended.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        // One name is not the name of several.
        assert!(Cli::try_parse_from(spelled("stoker-server /m/a.onnx /n/b.onnx --model-name c")).is_err());
        // A word behind an option may be its value.
        assert!(Cli::try_parse_from(spelled("stoker-server /m/a.onnx --threads 1 /n/b.onnx")).is_err());
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
