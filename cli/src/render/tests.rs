//! Screens of all stories, as files that are read in reviews: `render/screens/NAME.txt`. `STOKER_WRITE_SCREENS=1` writes them again.

use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::json;

use super::*;
use crate::explain::explain as explanation;
use crate::history::history as past;
use crate::picture::tests::{stories, story};
use crate::picture::{Picture, read};
use crate::settled::judge;

fn paper(width: usize) -> Paper {
    Paper { width: Some(width), ..Paper::default() }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/render/screens")
}

/// Compares with the file, or writes it.
fn hold_to(name: &str, text: &str) {
    let path = folder().join(format!("{name}.txt"));
    if std::env::var_os("STOKER_WRITE_SCREENS").is_some() {
        std::fs::create_dir_all(folder()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        text,
        wanted,
        "{}: look at it by eye, then write it with STOKER_WRITE_SCREENS=1",
        path.display()
    );
}

#[test]
fn each_story_looks_as_it_did() {
    for story in stories() {
        let picture = Picture::of(&story.look).unwrap();
        let explained = explanation(&story.look, &picture).unwrap();
        let pages = [
            ("kubectl stoker get digits", tree(&picture, paper(100))),
            ("kubectl stoker status digits", status(&judge(&picture, false).1)),
            ("kubectl stoker explain digits", explain(&explained, paper(100))),
        ];
        let text: Vec<_> = pages
            .iter()
            .map(|(command, page)| {
                format!(
                    "$ {command}
{}",
                    paint(page, Paper::default())
                )
            })
            .collect();
        hold_to(story.name, &text.join("\n"));
    }
}

#[test]
fn the_list_and_the_history_look_as_they_did() {
    let pictures: Vec<_> = ["progressing", "approval", "healthy", "rolled-back"]
        .map(|name| Picture::of(&story(name)).unwrap())
        .into();
    let revision = |name: &str, number: i64, uri: &str| -> ControllerRevision {
        serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": "2026-11-28T12:00:00Z"}, "revision": number,
            "data": {"model": {"uri": uri}, "digest": "sha256:0123"},
        }))
        .unwrap()
    };
    let kept = [
        revision("digits-1f0c22ab90", 3, "configmap://digits/v1.onnx"),
        revision("digits-8c1d5e07f3", 4, "configmap://digits/v2.onnx"),
        revision("digits-03b9aa41cc", 2, "configmap://digits/v0.onnx"),
    ];
    let look = story("rolled-back");
    let history_of = past(&read(&look.object).unwrap(), &kept, look.now);
    let undo: Vec<_> = history_of.revisions.iter().map(|one| (one.number, one.undo)).collect();
    assert_eq!(undo, [(4, true), (3, false), (2, true)]);
    let wide = Paper { wide: true, ..Paper::default() };
    let text = format!(
        "$ kubectl stoker list\n{}\n$ kubectl stoker list -A -o wide\n{}\n$ kubectl stoker history digits\n{}",
        paint(&list(&pictures, false, Paper::default()), Paper::default()),
        paint(&list(&pictures, true, wide), Paper::default()),
        paint(&history(&history_of, Paper::default()), Paper::default()),
    );
    hold_to("list", &text);
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for story in stories() {
        let picture = Picture::of(&story.look).unwrap();
        let explained = explanation(&story.look, &picture).unwrap();
        for width in [20, 40, 60, 80, 132] {
            for page in [
                tree(&picture, paper(width)),
                explain(&explained, paper(width)),
                list(std::slice::from_ref(&picture), true, paper(width)),
            ] {
                for line in page.into_iter().map(|line| line.cut(width)) {
                    assert!(line.width() <= width, "{} at {width}: {:?}", story.name, line.paint(false));
                }
            }
        }
    }
}

#[test]
fn what_is_to_be_typed_and_who_is_waited_for_are_whole_on_80_columns() {
    for story in stories() {
        let picture = Picture::of(&story.look).unwrap();
        let shown = paint(&tree(&picture, paper(80)), paper(80));
        for way in picture.hold.iter().flat_map(|hold| &hold.release) {
            assert!(shown.contains(&way.command), "{}: {}\n{shown}", story.name, way.command);
            assert!(shown.contains(way.does), "{}: {}\n{shown}", story.name, way.does);
        }
        let branches = shown.lines().take_while(|line| !line.starts_with("Message"));
        let cut: Vec<_> = branches.filter(|line| line.ends_with('…')).collect();
        assert!(cut.is_empty(), "{}: {cut:?}", story.name);
    }
}

#[test]
fn the_same_words_are_there_with_colours() {
    let strip = |text: &str| {
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("\x1b[") {
            plain.push_str(before);
            rest = after.split_once('m').map_or("", |(_, after)| after);
        }
        plain + rest
    };
    for story in stories() {
        let page = tree(&Picture::of(&story.look).unwrap(), Paper::default());
        let colour = paint(&page, Paper { colour: true, ..Paper::default() });
        assert!(colour.contains("\x1b["), "{}", story.name);
        assert_eq!(strip(&colour), paint(&page, Paper::default()), "{}", story.name);
    }
}
