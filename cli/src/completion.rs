//! Completion: scripts for shells, the answer to kubectl's question, and the names that are completed.
//!
//! kubectl completes a plugin by the program `kubectl_complete-NAME`, which it runs with the words after the plugin's name, the last of
//! which may be empty. The answer is a line for each candidate, with its help after a tab, and a last line `:N` of cobra's directives.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};
use clap_complete::engine::{CompletionCandidate, complete};
use clap_complete::env::Shells;
use kube::config::Kubeconfig;

use crate::args::{Cli, Global, Shell};
use crate::cluster::Cluster;
use crate::trouble::Trouble;

/// The variable by which a shell's script asks this program for candidates.
pub const VARIABLE: &str = "COMPLETE";
/// Longest time that a shell waits for names.
const PATIENCE: Duration = Duration::from_secs(2);
/// Cobra's directive: do not complete files.
const NO_FILES: &str = ":4";
/// Cobra's directive: complete as the shell does.
const DEFAULT: &str = ":0";

/// The program that kubectl looks for.
const KUBECTL: &str = "#!/bin/sh
# kubectl_complete-stoker: put it on PATH, beside kubectl-stoker; kubectl's own completion calls it.
exec kubectl-stoker __complete \"$@\"
";

/// The script for a shell.
pub fn script(shell: Shell) -> Result<String, Trouble> {
    let name = match shell {
        Shell::Kubectl => return Ok(KUBECTL.to_owned()),
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
        Shell::Powershell => "powershell",
    };
    let shells = Shells::builtins();
    let completer =
        shells.completer(name).ok_or_else(|| Trouble::Usage(format!("there is no completion for {name}")))?;
    let mut script = Vec::new();
    let program = "kubectl-stoker";
    completer.write_registration(VARIABLE, program, program, program, &mut script)?;
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// The answer to kubectl's question.
pub fn answer(words: &[OsString]) -> String {
    let mut command = Cli::command();
    let mut line = vec![OsString::from("kubectl-stoker")];
    line.extend(words.iter().cloned());
    if words.is_empty() {
        line.push(OsString::new());
    }
    let at = line.len() - 1;
    let flag = line[at].to_string_lossy().starts_with('-');
    // Files are completed better by the shell.
    let files = words.first().is_some_and(|first| first == "lint") && !flag;
    if files {
        return format!("{DEFAULT}\n");
    }
    let mut found = complete(&mut command, line, at, None).unwrap_or_default();
    found.retain(|candidate| !candidate.is_hide_set());
    let mut text = String::new();
    for candidate in found {
        text.push_str(&candidate.get_value().to_string_lossy());
        if let Some(help) = candidate.get_help() {
            // Only the first line: a candidate is one.
            text.push('\t');
            text.push_str(help.to_string().lines().next().unwrap_or_default());
        }
        text.push('\n');
    }
    text + NO_FILES + "\n"
}

/// Names of ModelDeployments.
pub fn names(current: &OsStr) -> Vec<CompletionCandidate> {
    let found = ask(async |cluster| {
        let objects = cluster.list(false).await.ok()?;
        Some(objects.into_iter().filter_map(|object| object.metadata.name).collect())
    });
    starting(current, found)
}

/// Names of revisions.
pub fn revisions(current: &OsStr) -> Vec<CompletionCandidate> {
    let of = positional();
    let found = ask(async |cluster| {
        let objects = cluster.revisions(of.as_deref()?).await.ok()?;
        Some(objects.into_iter().filter_map(|object| object.metadata.name).collect())
    });
    starting(current, found)
}

/// Names of namespaces that have ModelDeployments: whoever may list no namespaces may list these.
pub fn namespaces(current: &OsStr) -> Vec<CompletionCandidate> {
    let found = ask(async |cluster| {
        let objects = cluster.list(true).await.ok()?;
        Some(objects.into_iter().filter_map(|object| object.metadata.namespace).collect())
    });
    starting(current, found)
}

/// Contexts of the kubeconfig.
pub fn contexts(current: &OsStr) -> Vec<CompletionCandidate> {
    let file = match flags().kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let names = file.map(|file| file.contexts.into_iter().map(|context| context.name).collect());
    starting(current, names.unwrap_or_default())
}

fn starting(current: &OsStr, mut names: Vec<String>) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    names.retain(|name| name.starts_with(current.as_ref()));
    names.sort();
    names.dedup();
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// Asks the cluster. Whoever presses tab wants no error: then there are no names.
fn ask(question: impl AsyncFnOnce(Cluster) -> Option<Vec<String>>) -> Vec<String> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let found = runtime.block_on(async {
        let names = async { question(Cluster::connect(&flags()).await.ok()?).await };
        tokio::time::timeout(PATIENCE, names).await
    });
    found.ok().flatten().unwrap_or_default()
}

/// The flags that were typed already. The line is not complete, so it is read by hand.
fn flags() -> Global {
    of_words(&words())
}

fn words() -> Vec<String> {
    std::env::args().skip_while(|word| word != "--" && word != "__complete").skip(1).collect()
}

fn of_words(words: &[String]) -> Global {
    let value = |names: &[&str]| {
        words.iter().enumerate().find_map(|(at, word)| {
            let (name, value) =
                word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
            let value = value.or_else(|| words.get(at + 1).map(String::as_str));
            value.filter(|value| names.contains(&name) && !value.is_empty()).map(str::to_owned)
        })
    };
    Global {
        namespace: value(&["-n", "--namespace"]),
        context: value(&["--context"]),
        kubeconfig: value(&["--kubeconfig"]).map(Into::into),
        ..Global::default()
    }
}

/// The name of the ModelDeployment that was typed already.
fn positional() -> Option<String> {
    let words = words();
    let line = words.iter().filter(|word| word.as_str() != "kubectl-stoker");
    let line: Vec<_> = line.take_while(|word| word.as_str() != "--to").cloned().collect();
    let cli = Cli::try_parse_from([vec!["kubectl-stoker".to_owned()], line].concat()).ok()?;
    match cli.command {
        crate::args::Command::Undo(undo) => Some(undo.action.of.name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(words: &[&str]) -> String {
        answer(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn kubectl_gets_commands_flags_and_values() {
        let commands = answered(&[""]);
        assert!(commands.contains("explain\tSay what is declared"), "{commands}");
        assert!(!commands.contains("__complete"), "{commands}");
        assert!(commands.ends_with("\n:4\n"), "{commands}");
        assert!(answered(&["pro"]).starts_with("promote\t"));
        assert!(answered(&["promote", "--fu"]).starts_with("--full\t"));
        let forms = answered(&["get", "-o", ""]);
        assert!(["table", "wide", "json"].iter().all(|form| forms.contains(form)), "{forms}");
        assert_eq!(answered(&["lint", "a"]), ":0\n");
    }

    #[test]
    fn each_shell_has_a_script_that_names_the_program() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Powershell, Shell::Kubectl] {
            assert!(script(shell).unwrap().contains("kubectl-stoker"), "{shell:?}");
        }
    }

    #[test]
    fn flags_of_an_unfinished_line_are_read() {
        let words = ["get", "-n", "models", "--context=prod", ""].map(str::to_owned);
        let global = of_words(&words);
        assert_eq!((global.namespace.as_deref(), global.context.as_deref()), (Some("models"), Some("prod")));
        assert_eq!(of_words(&["get".to_owned(), "-n".to_owned()]).namespace, None);
    }
}
