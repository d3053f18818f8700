//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use crate::completion::{contexts, names, namespaces};

/// What is asked for.
#[derive(Parser, Debug)]
#[command(
    name = "kubectl-stoker",
    bin_name = "kubectl stoker",
    version,
    about = "Watches, explains and steers the rollouts of ModelDeployments.",
    long_about = None,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 well, 1 not well or refused, 2 wrong command line, 3 not settled yet, 4 not found, 5 the cluster could not be asked."
)]
pub struct Cli {
    /// Where, and in which form.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What goes with every command.
#[derive(Args, Clone, Debug, Default)]
pub struct Global {
    /// Namespace; default: that of the context.
    #[arg(short, long, global = true, value_name = "NAME", add = ArgValueCompleter::new(namespaces))]
    pub namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME", add = ArgValueCompleter::new(contexts))]
    pub context: Option<String>,
    /// Kubeconfig file; default: KUBECONFIG, then ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// Form of the output. JSON is for programs, and stable: docs/cli.md describes it.
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub output: Output,
}

/// Form of the output.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For people with a wide terminal: more columns and pods.
    Wide,
    /// For programs.
    Json,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show a ModelDeployment as a tree: revisions, pods, steps, verdict, and what holds it.
    Get(Get),
    /// List ModelDeployments.
    #[command(visible_alias = "ls")]
    List(List),
    /// Say in one line how it stands, and end with a code for pipelines.
    Status(Status),
    /// Say what is declared, what the run goes by, what is in force, and the one thing that holds it.
    Explain(Named),
    /// End the step that is under way: the next one begins, or the promotion follows.
    Promote(Promote),
    /// End the run; stable gets all the traffic, and the candidate is not tried again by itself.
    Abort(Action),
    /// Try the revision that the spec asks for again, after a rollback, an abort or an undo.
    Retry(Action),
    /// Return to the previous revision, or to another one.
    Undo(Undo),
    /// Let the run stand still at its weight until `resume`. Rollbacks go on.
    Pause(Action),
    /// End a pause.
    Resume(Action),
    /// Let the run go on by the plan that the spec has now.
    Repin(Action),
    /// Give the approval that the run waits for, or will wait for next.
    Approve(Approve),
    /// Check manifests without a cluster: schema, rules, and what an SRE would warn of.
    Lint(Lint),
    /// Show how runs ended, and which revisions one can return to.
    History(Named),
    /// Print a completion script.
    Completion(Completion),
    /// Answer kubectl's question for completions (`kubectl_complete-stoker`).
    #[command(name = "__complete", hide = true)]
    Complete(Complete),
}

/// A ModelDeployment.
#[derive(Args, Clone, Debug)]
pub struct Named {
    /// Name of the ModelDeployment.
    #[arg(add = ArgValueCompleter::new(names), value_parser = name)]
    pub name: String,
}

/// `get`.
#[derive(Args, Debug)]
pub struct Get {
    /// Which one.
    #[command(flatten)]
    pub of: Named,
    /// Go on showing it as it changes, until Ctrl-C.
    #[arg(short, long)]
    pub watch: bool,
}

/// `list`.
#[derive(Args, Debug)]
pub struct List {
    /// Of all namespaces.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}

/// `status`.
#[derive(Args, Debug)]
pub struct Status {
    /// Which one.
    #[command(flatten)]
    pub of: Named,
    /// Wait until it is settled: healthy, rolled back, degraded or in conflict.
    #[arg(short, long)]
    pub watch: bool,
    /// With --watch: after this long it ends with 3. Default: never.
    #[arg(long, value_parser = duration, value_name = "DURATION", requires = "watch")]
    pub timeout: Option<Duration>,
    /// Not settled before the guard after the promotion is over, too.
    #[arg(long)]
    pub through_guard: bool,
}

/// An action, and how long to wait for what comes of it.
#[derive(Args, Clone, Debug)]
pub struct Action {
    /// On which one.
    #[command(flatten)]
    pub of: Named,
    /// How to go about it.
    #[command(flatten)]
    pub waiting: Waiting,
}

/// How to wait for the operator.
#[derive(Args, Clone, Debug)]
pub struct Waiting {
    /// Ask, and do not wait for the operator's answer.
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for the operator's answer.
    #[arg(long, value_parser = duration, value_name = "DURATION", default_value = "30s", conflicts_with = "no_wait")]
    pub timeout: Duration,
    /// Take the place of an earlier request that the operator has not handled yet.
    #[arg(long)]
    pub replace: bool,
}

/// `promote`.
#[derive(Args, Debug)]
pub struct Promote {
    /// On which one.
    #[command(flatten)]
    pub action: Action,
    /// Skip all the steps that remain.
    #[arg(long)]
    pub full: bool,
}

/// `undo`.
#[derive(Args, Debug)]
pub struct Undo {
    /// On which one.
    #[command(flatten)]
    pub action: Action,
    /// The revision to return to, as `history` lists them. Default: the previous one.
    #[arg(long, value_name = "REVISION", value_parser = name, add = ArgValueCompleter::new(crate::completion::revisions))]
    pub to: Option<String>,
}

/// `approve`.
#[derive(Args, Debug)]
pub struct Approve {
    /// On which one.
    #[command(flatten)]
    pub action: Action,
    /// Why: it is kept in status, Events and history. At most 256 bytes.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
}

/// `lint`.
#[derive(Args, Debug)]
pub struct Lint {
    /// YAML or JSON files, with any number of documents; `-` is standard input.
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
    /// Warnings count as errors.
    #[arg(long)]
    pub strict: bool,
}

/// `completion`.
#[derive(Args, Debug)]
pub struct Completion {
    /// For which shell; `kubectl` is the program `kubectl_complete-stoker`, which kubectl's own completion calls.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Who completes.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
    /// PowerShell.
    Powershell,
    /// kubectl's own completion, in any of these.
    Kubectl,
}

/// `__complete`.
#[derive(Args, Debug)]
pub struct Complete {
    /// The words after `kubectl stoker`, the last of which is to be completed.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<std::ffi::OsString>,
}

/// Names of objects: what is none would only be looked for in vain.
fn name(text: &str) -> Result<String, String> {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if !text.is_empty() && text.len() <= 253 && text.chars().all(label) {
        Ok(text.to_owned())
    } else {
        Err("a name has only a-z, 0-9, - and .".to_owned())
    }
}

/// `90s`, `5m`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "write it as 90s, 5m or 1h30m".to_owned();
    // The parser multiplies without a bound.
    if text.len() > 12 {
        return Err(wrong());
    }
    let parsed: kube::core::Duration = text.parse().map_err(|_| wrong())?;
    if parsed.is_negative() { Err(wrong()) } else { Ok(parsed.into()) }
}

/// What `stoker.dev/reason` may hold.
fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        Err("an approval wants a reason".to_owned())
    } else if text.len() > LONGEST_REASON {
        Err(format!("it has {} bytes; at most {LONGEST_REASON} are kept", text.len()))
    } else {
        Ok(text.to_owned())
    }
}

/// Bytes of a reason.
const LONGEST_REASON: usize = 256;

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let cases: [&[&str]; 9] = [
            &["get"],
            &["get", "Digits"],
            &["status", "digits", "--timeout", "5m"],
            &["status", "digits", "--watch", "--timeout", "soon"],
            &["approve", "digits"],
            &["approve", "digits", "--reason", " "],
            &["status", "digits", "--watch", "--timeout", "99999999999999999999h"],
            &["abort", "digits", "--no-wait", "--timeout", "5s"],
            &["lint"],
        ];
        for words in cases {
            let line = ["kubectl-stoker"].iter().chain(words);
            assert!(Cli::try_parse_from(line).is_err(), "{words:?} was accepted");
        }
    }

    #[test]
    fn flags_may_stand_before_and_after_the_command() {
        let before =
            Cli::try_parse_from(["kubectl-stoker", "-n", "models", "get", "digits", "-o", "json"]).unwrap();
        let after =
            Cli::try_parse_from(["kubectl-stoker", "get", "digits", "-o", "json", "--namespace=models"])
                .unwrap();
        for cli in [before, after] {
            assert_eq!(cli.global.namespace.as_deref(), Some("models"));
            assert_eq!(cli.global.output, Output::Json);
        }
    }

    #[test]
    fn a_reason_is_trimmed_and_bounded() {
        assert_eq!(reason("  looked at it ").as_deref(), Ok("looked at it"));
        assert!(reason(&"é".repeat(128)).is_ok());
        assert!(reason(&"é".repeat(129)).unwrap_err().contains("258 bytes"));
    }
}
