//! `kubectl stoker`: watches, explains and steers the rollouts of ModelDeployments, over their annotations and status alone.
//!
//! The way through: [`args`] says what is asked for; [`cluster`] makes the calls; [`observe`] looks at all that belongs together;
//! [`picture`] is what was seen, [`settled`], [`explain`] and [`history`] judge it, [`render`] makes text of it, all pure; [`screen`]
//! prints. [`act`] writes a request and waits for its answer. [`lint`] needs no cluster at all.

pub mod act;
pub mod args;
pub mod cluster;
pub mod completion;
pub mod exit;
pub mod explain;
pub mod history;
pub mod lint;
pub mod observe;
pub mod picture;
pub mod render;
pub mod screen;
pub mod settled;
pub mod trouble;
pub mod watch;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use clap_complete::CompleteEnv;
use jiff::Timestamp;

use act::{Ask, Verb};
use args::{Action, Cli, Command, List, Output};
use cluster::Cluster;
use exit::Exit;
use lint::{Manifest, Severity};
use picture::{Look, Picture, read, written};
use screen::{Screen, complain};
use trouble::Trouble;

/// The process: reads the command line, does what it says, and ends with a code that docs/cli.md lists.
pub fn main() -> ExitCode {
    // A shell asks for candidates by a variable; then this ends here.
    CompleteEnv::with_factory(Cli::command).var(completion::VARIABLE).bin("kubectl-stoker").complete();
    let cli = Cli::parse();
    let exit = match run(cli) {
        Ok(exit) => exit,
        // To have read enough is no error.
        Err(trouble @ Trouble::Closed) => trouble.exit(),
        Err(trouble) => {
            complain(&format!("error: {trouble}"));
            trouble.exit()
        }
    };
    ExitCode::from(exit.code())
}

fn run(cli: Cli) -> Result<Exit, Trouble> {
    let output = cli.global.output;
    let mut screen = Screen::stdout(output);
    match cli.command {
        // No cluster is asked, and the completers make a runtime of their own.
        Command::Lint(args) => return check(&args, output, &screen),
        Command::Completion(args) => {
            screen.raw(&completion::script(args.shell)?)?;
            return Ok(Exit::Well);
        }
        Command::Complete(args) => {
            screen.raw(&completion::answer(&args.words))?;
            return Ok(Exit::Well);
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let cluster = Cluster::connect(&cli.global).await?;
        // Boxed: futures of the client are large.
        Box::pin(ask(&cluster, cli.command, output, &mut screen)).await
    })
}

/// Commands that ask the cluster.
async fn ask(
    cluster: &Cluster,
    command: Command,
    output: Output,
    screen: &mut Screen,
) -> Result<Exit, Trouble> {
    let (verb, action, to, reason) = match command {
        Command::Get(args) => return Box::pin(watch::get(cluster, &args, output, screen)).await,
        Command::Status(args) => return watch::status(cluster, &args, output, screen).await,
        Command::List(args) => return list(cluster, &args, output, screen).await,
        Command::Explain(args) => return tell(cluster, &args.name, output, screen).await,
        Command::History(args) => return past(cluster, &args.name, output, screen).await,
        Command::Promote(args) => {
            let verb = if args.full { Verb::PromoteFull } else { Verb::Promote };
            (verb, args.action, None, None)
        }
        Command::Abort(action) => (Verb::Abort, action, None, None),
        Command::Retry(action) => (Verb::Retry, action, None, None),
        Command::Undo(args) => (Verb::Undo, args.action, args.to, None),
        Command::Pause(action) => (Verb::Pause, action, None, None),
        Command::Resume(action) => (Verb::Resume, action, None, None),
        Command::Repin(action) => (Verb::Repin, action, None, None),
        Command::Approve(args) => (Verb::Approve, args.action, None, Some(args.reason)),
        Command::Lint(_) | Command::Completion(_) | Command::Complete(_) => {
            return Err(Trouble::Usage("this command asks no cluster".to_owned()));
        }
    };
    do_it(cluster, &Ask { verb, to, reason }, &action, output, screen).await
}

async fn do_it(
    cluster: &Cluster,
    ask: &Ask,
    action: &Action,
    output: Output,
    screen: &Screen,
) -> Result<Exit, Trouble> {
    let outcome = act::act(cluster, &action.of.name, ask, &action.waiting).await?;
    match output {
        Output::Json => screen.json(&outcome, false)?,
        _ if outcome.result == act::Result::Refused => complain(&format!("refused: {}", outcome.message)),
        _ => screen.print_whole(&render::done(&outcome))?,
    }
    Ok(outcome.exit())
}

async fn list(cluster: &Cluster, args: &List, output: Output, screen: &Screen) -> Result<Exit, Trouble> {
    let objects = cluster.list(args.all_namespaces).await?;
    let now = Timestamp::now();
    let look = |object| Look { object: written(&object), now, ..Look::default() };
    let pictures: Result<Vec<_>, _> = objects.into_iter().map(|object| Picture::of(&look(object))).collect();
    let pictures = pictures?;
    match output {
        Output::Json => screen.json(&pictures, false)?,
        _ if pictures.is_empty() => {
            let place = if args.all_namespaces {
                "in the cluster".to_owned()
            } else {
                format!("in namespace {}; -A shows those of all", cluster.namespace())
            };
            complain(&format!("there are no ModelDeployments {place}"));
        }
        _ => screen.print(&render::list(&pictures, args.all_namespaces, screen.paper()))?,
    }
    Ok(Exit::Well)
}

async fn tell(cluster: &Cluster, name: &str, output: Output, screen: &Screen) -> Result<Exit, Trouble> {
    let look = observe::look(cluster, name).await?;
    let explanation = explain::explain(&look, &Picture::of(&look)?)?;
    match output {
        Output::Json => screen.json(&explanation, false)?,
        _ => screen.print(&render::explain(&explanation, screen.paper()))?,
    }
    Ok(Exit::Well)
}

async fn past(cluster: &Cluster, name: &str, output: Output, screen: &Screen) -> Result<Exit, Trouble> {
    let (object, revisions) = futures::join!(cluster.get(name), cluster.revisions(name));
    let history = history::history(&read(&written(&object?))?, &revisions?, Timestamp::now());
    match output {
        Output::Json => screen.json(&history, false)?,
        _ => screen.print(&render::history(&history, screen.paper()))?,
    }
    Ok(Exit::Well)
}

fn check(args: &args::Lint, output: Output, screen: &Screen) -> Result<Exit, Trouble> {
    let manifests: Result<Vec<_>, _> = args.files.iter().map(|path| Manifest::read(path)).collect();
    let report = lint::lint(&manifests?);
    match output {
        Output::Json => screen.json(&report, false)?,
        _ => screen.print_whole(&render::findings(&report))?,
    }
    let worst = if args.strict { Severity::Warning } else { Severity::Error };
    let bad = report.findings.iter().any(|finding| finding.severity <= worst);
    Ok(if bad { Exit::Unwell } else { Exit::Well })
}
