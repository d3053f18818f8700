//! `get` and `status`, once or as they change. What is shown is looked at anew every second: a watch whose connection is lost without
//! a word would go on showing what was.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::args::{Get, Output, Status};
use crate::cluster::Cluster;
use crate::exit::Exit;
use crate::observe::{glance, look};
use crate::picture::{Look, Picture};
use crate::render::{Ink, Line, Page, status as line_of, tree};
use crate::screen::{Screen, complain};
use crate::settled::{Standing, judge};
use crate::trouble::Trouble;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// `get`.
pub async fn get(
    cluster: &Cluster,
    args: &Get,
    output: Output,
    screen: &mut Screen,
) -> Result<Exit, Trouble> {
    let picture = Picture::of(&look(cluster, &args.of.name).await?)?;
    if !args.watch {
        match output {
            Output::Json => screen.json(&picture, false)?,
            _ => screen.print(&tree(&picture, screen.paper()))?,
        }
        return Ok(Exit::Well);
    }
    tokio::select! {
        // Ctrl-C is how one leaves: the screen stays as it was drawn last, with the cursor below it.
        _ = tokio::signal::ctrl_c() => Ok(Exit::Well),
        ended = follow(cluster, &args.of.name, picture, output, screen) => ended,
    }
}

/// Shows a picture as it changes, until the object is gone.
async fn follow(
    cluster: &Cluster,
    name: &str,
    mut picture: Picture,
    output: Output,
    screen: &mut Screen,
) -> Result<Exit, Trouble> {
    let (mut seen, mut said) = (Instant::now(), String::new());
    let mut trouble: Option<Trouble> = None;
    loop {
        show(&picture, trouble.as_ref().map(|trouble| (trouble, seen)), output, screen, &mut said)?;
        sleep(PERIOD).await;
        match look(cluster, name).await.and_then(|look| Picture::of(&look)) {
            Ok(next) => (picture, seen, trouble) = (next, Instant::now(), None),
            // The API server restarts: what was seen last stays, with its age.
            Err(passing) if passing.passes() => trouble = Some(passing),
            Err(lasting) => return Err(lasting),
        }
    }
}

fn show(
    picture: &Picture,
    stale: Option<(&Trouble, Instant)>,
    output: Output,
    screen: &mut Screen,
    said: &mut String,
) -> Result<(), Trouble> {
    if output != Output::Json && screen.can_redraw() {
        let mut page = tree(picture, screen.paper());
        // At the top, where a low terminal shows it, too.
        if let Some((trouble, seen)) = stale {
            page.insert(0, outdated(trouble, seen.elapsed()));
        }
        page.push(Line::of(Ink::Dim, "Ctrl-C ends"));
        return screen.draw(&page);
    }
    if let Some((trouble, _)) = stale {
        once(&trouble.to_string(), said);
        return Ok(());
    }
    // A line for each change; figures that grow with time alone are none.
    let text = match output {
        Output::Json => serde_json::to_string(&timeless(picture)).unwrap_or_default(),
        _ => paint_line(picture),
    };
    if text != *said {
        match output {
            Output::Json => screen.json(picture, true)?,
            _ => screen.print(&line_of(&judge(picture, false).1))?,
        }
        *said = text;
    }
    Ok(())
}

/// A picture without its ages.
fn timeless(picture: &Picture) -> Picture {
    let mut picture = picture.clone();
    picture.age_seconds = None;
    for revision in &mut picture.revisions {
        revision.kept_seconds = None;
        revision.pods.iter_mut().for_each(|pod| pod.age_seconds = None);
    }
    picture
}

fn paint_line(picture: &Picture) -> String {
    let page: Page = line_of(&judge(picture, false).1);
    page.iter().map(|line| line.paint(false)).collect()
}

fn outdated(trouble: &Trouble, age: Duration) -> Line {
    Line::of(Ink::Bad, format!("as of {} s ago: ", age.as_secs())).then(Ink::Plain, trouble.to_string())
}

/// Complains, unless that was the last thing that was said.
fn once(text: &str, said: &mut String) {
    if text != *said {
        complain(text);
        text.clone_into(said);
    }
}

/// `status`.
pub async fn status(
    cluster: &Cluster,
    args: &Status,
    output: Output,
    screen: &Screen,
) -> Result<Exit, Trouble> {
    let judged = |look: &Look| Ok::<_, Trouble>(judge(&Picture::of(look)?, args.through_guard));
    let (exit, standing) = judged(&glance(cluster, &args.of.name).await?)?;
    report(&standing, output, args.watch, screen)?;
    if !args.watch || exit != Exit::Unsettled {
        return Ok(exit);
    }
    let mut last = standing;
    let waits = async {
        let mut said = String::new();
        loop {
            sleep(PERIOD).await;
            let (exit, standing) = match glance(cluster, &args.of.name).await.and_then(|look| judged(&look)) {
                Ok(judged) => judged,
                Err(passing) if passing.passes() => {
                    once(&passing.to_string(), &mut said);
                    continue;
                }
                Err(lasting) => return Err(lasting),
            };
            if standing != last {
                report(&standing, output, true, screen)?;
                last = standing;
            }
            if exit != Exit::Unsettled {
                return Ok(exit);
            }
        }
    };
    let Some(patience) = args.timeout else { return waits.await };
    match timeout(patience, waits).await {
        Ok(ended) => ended,
        Err(_) => {
            Err(Trouble::Late(format!("not settled within {} s; it goes on without you", patience.as_secs())))
        }
    }
}

fn report(standing: &Standing, output: Output, one_line: bool, screen: &Screen) -> Result<(), Trouble> {
    match output {
        Output::Json => screen.json(standing, one_line),
        // The sentence is the answer: it is not cut.
        _ => screen.print_whole(&line_of(standing)),
    }
}
