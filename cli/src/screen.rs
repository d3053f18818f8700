//! The terminal: what it is, and how a screen is drawn over the one before without flicker.

use std::io::{IsTerminal as _, Write};

use crate::args::Output;
use crate::render::{Ink, Line, Page, Paper, paint};
use crate::trouble::Trouble;

/// Where output goes.
pub struct Screen {
    terminal: bool,
    paper: Paper,
    /// Rows that were drawn last, and the size of the terminal then.
    drawn: usize,
    size: Option<Size>,
}

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    columns: usize,
    rows: usize,
}

impl Screen {
    /// Standard output. Colours are for a terminal, and never with NO_COLOR.
    pub fn stdout(output: Output) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let paper =
            Paper { width: None, colour: terminal && !refused && !dumb, wide: output == Output::Wide };
        Self { terminal: terminal && !dumb, paper, drawn: 0, size: None }
    }

    /// What pages are printed on, by the size that the terminal has now.
    pub fn paper(&self) -> Paper {
        Paper { width: self.measure().map(|size| size.columns), ..self.paper }
    }

    /// Whether a screen can be drawn over the one before.
    pub fn can_redraw(&self) -> bool {
        self.terminal
    }

    /// Prints a page.
    pub fn print(&self, page: &Page) -> Result<(), Trouble> {
        write(&paint(page, self.paper()))
    }

    /// Prints a page whose lines the terminal may break.
    pub fn print_whole(&self, page: &Page) -> Result<(), Trouble> {
        write(&paint(page, self.paper))
    }

    /// Prints a value as JSON: over several lines, or in one where values follow each other.
    pub fn json(&self, value: &impl serde::Serialize, one_line: bool) -> Result<(), Trouble> {
        let text = if one_line { serde_json::to_string(value) } else { serde_json::to_string_pretty(value) };
        let text = text.map_err(|error| Trouble::Output(error.into()))?;
        write(&format!("{text}\n"))
    }

    /// Prints a text as it is.
    pub fn raw(&self, text: &str) -> Result<(), Trouble> {
        write(text)
    }

    /// Draws a page over the one before.
    pub fn draw(&mut self, page: &Page) -> Result<(), Trouble> {
        let size = self.measure();
        let before = if size == self.size { Some(self.drawn) } else { None };
        let page = fitted(page, size.map(|size| size.rows));
        let text =
            redraw(&paint(&page, self.paper()), before.filter(|_| self.size.is_some()), self.size.is_some());
        (self.drawn, self.size) = (page.len(), size);
        write(&text)
    }

    fn measure(&self) -> Option<Size> {
        if !self.terminal {
            return None;
        }
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
        let (columns, rows) = (usize::from(size.ws_col), usize::from(size.ws_row));
        (columns > 0 && rows > 0).then_some(Size { columns, rows })
    }
}

/// As many lines as fit: the cursor cannot go up to what has left the screen.
fn fitted(page: &Page, rows: Option<usize>) -> Page {
    let room = rows.map_or(usize::MAX, |rows| rows.saturating_sub(1).max(1));
    if page.len() <= room {
        return page.clone();
    }
    let hidden = page.len() - room + 1;
    let mut fitted: Page = page.iter().take(room - 1).cloned().collect();
    fitted.push(Line::of(Ink::Dim, format!("… {hidden} more lines; make the terminal higher")));
    fitted
}

/// The control sequences (ECMA-48) that put `text` in the place of what was drawn before: so many rows, or, when the size of the
/// terminal changed since, the whole screen. It is one write, each line is cleared behind its end, and nothing flickers.
fn redraw(text: &str, before: Option<usize>, again: bool) -> String {
    let start = match before {
        Some(0) => "\r".to_owned(),
        Some(rows) => format!("\r\x1b[{rows}A"),
        None if again => "\x1b[2J\x1b[H".to_owned(),
        None => String::new(),
    };
    format!("{start}{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

/// Writes to standard output.
fn write(text: &str) -> Result<(), Trouble> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Trouble::Closed),
        other => Ok(other?),
    }
}

/// Writes a line to standard error.
pub fn complain(text: &str) {
    // Nobody is left to be told when this fails.
    let _ = writeln!(std::io::stderr().lock(), "{}", Line::plain(text).paint(false));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_drawn_over_the_one_before() {
        assert_eq!(redraw("a\nb\n", None, false), "a\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(redraw("a\n", Some(2), true), "\r\x1b[2Aa\x1b[K\n\x1b[J");
        // After a change of size nobody knows where the lines are.
        assert_eq!(redraw("a\n", None, true), "\x1b[2J\x1b[Ha\x1b[K\n\x1b[J");
    }

    #[test]
    fn no_more_rows_are_drawn_than_the_terminal_has() {
        let page: Page = (0..9).map(|row| Line::plain(row.to_string())).collect();
        for (rows, shown) in [(None, 9), (Some(10), 9), (Some(9), 8), (Some(3), 2), (Some(1), 1)] {
            assert_eq!(fitted(&page, rows).len(), shown, "{rows:?}");
        }
        assert!(fitted(&page, Some(3))[1].paint(false).contains("8 more lines"));
    }
}
