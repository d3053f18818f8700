//! Lines of text with ink: measured in columns, cut to a width, and painted last. What comes from the cluster is cleaned of control
//! characters, since anybody who may write a status or a log line could move the cursor otherwise.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// What a page is printed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paper {
    /// Columns; none: as many as are needed.
    pub width: Option<usize>,
    /// Colours are shown.
    pub colour: bool,
    /// More is shown than usual.
    pub wide: bool,
}

/// How a piece of text is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ink {
    /// As it is.
    #[default]
    Plain,
    /// Headings and names.
    Bold,
    /// What matters less.
    Dim,
    /// As it should be.
    Good,
    /// To be looked at.
    Warn,
    /// Wrong.
    Bad,
}

impl Ink {
    /// The parameters of SGR, ECMA-48.
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Bold => Some("1"),
            Self::Dim => Some("2"),
            Self::Good => Some("32"),
            Self::Warn => Some("33"),
            Self::Bad => Some("31"),
        }
    }

    /// The ink of a verdict.
    pub fn of_verdict(word: &str) -> Self {
        match word {
            "Pass" => Self::Good,
            "Fail" | "Error" => Self::Bad,
            _ => Self::Warn,
        }
    }

    /// The ink of a phase.
    pub fn of_phase(word: &str) -> Self {
        match word {
            "Healthy" => Self::Good,
            "RolledBack" | "Degraded" | "Conflicted" => Self::Bad,
            _ => Self::Warn,
        }
    }
}

/// A line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(Vec<(Ink, String)>);

/// Lines, one below the other.
pub type Page = Vec<Line>;

impl Line {
    /// A line of one piece.
    pub fn of(ink: Ink, text: impl AsRef<str>) -> Self {
        Self::default().then(ink, text)
    }

    /// A plain line.
    pub fn plain(text: impl AsRef<str>) -> Self {
        Self::of(Ink::Plain, text)
    }

    /// The same with a piece more.
    #[must_use]
    pub fn then(mut self, ink: Ink, text: impl AsRef<str>) -> Self {
        let text = clean(text.as_ref());
        if !text.is_empty() {
            self.0.push((ink, text));
        }
        self
    }

    /// The same with all of another line.
    #[must_use]
    pub fn join(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// As text, without inks.
    pub fn text(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.width()).sum()
    }

    /// At least so many columns.
    #[must_use]
    pub fn padded(self, width: usize) -> Self {
        let missing = width.saturating_sub(self.width());
        self.then(Ink::Plain, " ".repeat(missing))
    }

    /// At least so many columns, with the text at the right.
    #[must_use]
    pub fn right(self, width: usize) -> Self {
        let missing = width.saturating_sub(self.width());
        Self::plain(" ".repeat(missing)).join(self)
    }

    /// At most so many columns; what is left out shows as `…`.
    #[must_use]
    pub fn cut(self, width: usize) -> Self {
        if self.width() <= width {
            return self;
        }
        let mut room = width.saturating_sub(1);
        let mut kept = Self::default();
        'all: for (ink, text) in self.0 {
            let mut part = String::new();
            for c in text.chars() {
                let columns = c.width().unwrap_or(0);
                if columns > room {
                    kept.0.push((ink, part));
                    break 'all;
                }
                room -= columns;
                part.push(c);
            }
            kept.0.push((ink, part));
        }
        kept.0.push((Ink::Dim, if width == 0 { String::new() } else { "…".to_owned() }));
        kept
    }

    /// As text, without spaces at the end.
    pub fn paint(&self, colour: bool) -> String {
        let mut text = String::new();
        let last = self.0.iter().rposition(|(_, piece)| !piece.trim_end().is_empty());
        for (at, (ink, piece)) in self.0.iter().enumerate().take(last.map_or(0, |last| last + 1)) {
            let piece = if Some(at) == last { piece.trim_end() } else { piece.as_str() };
            match ink.code().filter(|_| colour) {
                Some(code) => text.extend(["\x1b[", code, "m", piece, "\x1b[0m"]),
                None => text.push_str(piece),
            }
        }
        text
    }
}

/// A page as text, each line ended.
pub fn paint(page: &Page, paper: Paper) -> String {
    let cut = |line: &Line| match paper.width {
        Some(width) => line.clone().cut(width),
        None => line.clone(),
    };
    page.iter().flat_map(|line| [cut(line).paint(paper.colour), "\n".to_owned()]).collect()
}

/// A table: columns as wide as their widest cell, two spaces between them. What is last in its row is not filled.
pub fn table(rows: Vec<Vec<Line>>) -> Page {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(Line::width).max().unwrap_or_default()
        })
        .collect();
    let line = |row: Vec<Line>| {
        let last = row.iter().rposition(|cell| cell.width() > 0).unwrap_or_default();
        let cells = row.into_iter().enumerate().take(last + 1);
        cells.fold(Line::default(), |line, (column, cell)| {
            let gap = if column == 0 { 0 } else { 2 };
            let cell = if column == last { cell } else { cell.padded(widths[column]) };
            line.then(Ink::Plain, " ".repeat(gap)).join(cell)
        })
    };
    rows.into_iter().map(line).collect()
}

/// Whether a line that begins at a column fits on the paper.
pub fn fits(line: &Line, at: usize, paper: Paper) -> bool {
    paper.width.is_none_or(|width| at + line.width() <= width)
}

/// A table whose last column holds sentences: those that do not fit go on below, in their column, or, where that would be narrow,
/// below the second one.
pub fn told_table(mut rows: Vec<Vec<Line>>, paper: Paper) -> Page {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let last = |row: &mut Vec<Line>| if row.len() == columns { row.pop() } else { None };
    let sentences: Vec<_> = rows.iter_mut().map(|row| last(row).unwrap_or_default()).collect();
    let width = |rows: &[Vec<Line>], column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(Line::width).max().unwrap_or_default()
    };
    let whole: usize = (0..columns.saturating_sub(1)).map(|column| width(&rows, column) + 2).sum();
    let second = width(&rows, 0) + 2;
    let narrow = paper.width.is_some_and(|paper| paper < whole + NARROW);
    let mut page = Page::new();
    for (row, sentence) in table(rows).into_iter().zip(sentences) {
        let (at, beside) =
            if narrow && !fits(&sentence, whole, paper) { (second, false) } else { (whole, true) };
        let ink = sentence.0.first().map(|(ink, _)| *ink).unwrap_or_default();
        let room = paper.width.map(|width| width.saturating_sub(at));
        let mut lines = wrap(&sentence.text(), room).into_iter().filter(|text| !text.is_empty());
        let first = if beside { lines.next() } else { None };
        page.push(first.map_or_else(|| row.clone(), |text| row.clone().padded(at).then(ink, text)));
        page.extend(lines.map(|text| Line::plain(" ".repeat(at)).then(ink, text)));
    }
    page
}

/// Columns that a sentence wants.
const NARROW: usize = 32;

/// A text in several lines of at most `width` columns, broken between words; a word that is longer is broken itself.
pub fn wrap(text: &str, width: Option<usize>) -> Vec<String> {
    let text = clean(text);
    let Some(width) = width.map(|width| width.max(16)) else { return vec![text] };
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().map(|line| line.width()).unwrap_or_default();
        let gap = usize::from(line > 0);
        if line + gap + word.width() > width && line > 0 {
            lines.push(String::new());
        }
        let mut rest = word;
        while rest.width() > width {
            let end = fitting(rest, width);
            let (head, tail) = rest.split_at(end);
            append(&mut lines, head);
            lines.push(String::new());
            rest = tail;
        }
        append(&mut lines, rest);
    }
    lines
}

fn append(lines: &mut [String], word: &str) {
    if let Some(line) = lines.last_mut() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
}

/// Bytes of as many characters as fit.
fn fitting(text: &str, width: usize) -> usize {
    let mut columns = 0;
    let over = text.char_indices().find(|(_, c)| {
        columns += c.width().unwrap_or(0);
        columns > width
    });
    // At least one character, or it would never end.
    over.map_or(text.len(), |(at, _)| at).max(text.chars().next().map_or(0, char::len_utf8))
}

/// A heading, and below it or beside it a text that may take several lines.
pub fn told(heading: &str, ink: Ink, text: &str, paper: Paper) -> Page {
    let beside = HEADING;
    let room = paper.width.map(|width| width.saturating_sub(beside));
    let lines = wrap(text, room).into_iter().enumerate();
    lines
        .map(|(at, text)| {
            let head = if at == 0 { heading } else { "" };
            Line::of(Ink::Bold, head).padded(beside).then(ink, text)
        })
        .collect()
}

/// Columns of a heading.
pub const HEADING: usize = 11;

/// Without control characters, and without those that turn the direction of the text.
pub fn clean(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    text.chars().filter(|c| !turns(*c)).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_by_columns() {
        let line = Line::plain("abc").then(Ink::Bad, "模型def");
        let cuts: Vec<_> =
            [0, 1, 3, 4, 5, 6, 7, 9, 10, 99].map(|width| line.clone().cut(width).paint(false)).into();
        assert_eq!(
            cuts,
            ["", "…", "ab…", "abc…", "abc…", "abc模…", "abc模…", "abc模型d…", "abc模型def", "abc模型def"]
        );
        for width in 0..12 {
            assert!(line.clone().cut(width).width() <= width, "{width}");
        }
    }

    #[test]
    fn colours_are_painted_only_where_they_are_wanted() {
        let line = Line::of(Ink::Good, "Pass").then(Ink::Plain, " x  ");
        assert_eq!(line.paint(false), "Pass x");
        assert_eq!(line.paint(true), "\x1b[32mPass\x1b[0m x");
    }

    #[test]
    fn what_the_cluster_says_moves_no_cursor() {
        let line = Line::plain("a\x1b[2Jb\r\nc\u{202e}d");
        assert_eq!(line.paint(false), "a [2Jb  cd");
    }

    #[test]
    fn texts_are_broken_between_words_and_no_line_is_too_long() {
        let text = "the candidate has answered 12 of the 50 requests that this step needs";
        let lines = wrap(text, Some(24));
        assert_eq!(lines.join(" "), text);
        assert!(lines.iter().all(|line| line.width() <= 24), "{lines:?}");
        let word = "x".repeat(50);
        assert_eq!(wrap(&word, Some(20)).iter().map(String::len).collect::<Vec<_>>(), [20, 20, 10]);
        assert_eq!(wrap("", Some(20)), [""]);
        assert_eq!(wrap("模".repeat(12).as_str(), Some(16)).len(), 2);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let cell = |text: &str| Line::plain(text);
        let page =
            table(vec![vec![cell("NAME"), cell("READY")], vec![cell("模型"), cell("2/2")], vec![cell("a")]]);
        let text = paint(&page, Paper::default());
        assert_eq!(text, "NAME  READY\n模型  2/2\na\n");
    }

    #[test]
    fn sentences_go_on_in_their_column_or_below() {
        let row =
            |name: &str, text: &str| vec![Line::plain(name), Line::plain("Promoted"), Line::plain(text)];
        let rows = || vec![row("RUN", "MESSAGE"), row("7", "it served so many requests without any failure")];
        let shown = |width| {
            let paper = Paper { width, ..Paper::default() };
            paint(&told_table(rows(), paper), paper)
        };
        let whole = "RUN  Promoted  MESSAGE\n7    Promoted  it served so many requests without any failure\n";
        assert_eq!(shown(None), whole);
        assert_eq!(shown(Some(80)), whole);
        assert_eq!(
            shown(Some(50)),
            "RUN  Promoted  MESSAGE\n7    Promoted  it served so many requests without\n               any failure\n"
        );
        assert_eq!(
            shown(Some(40)),
            "RUN  Promoted  MESSAGE\n7    Promoted\n     it served so many requests without\n     any failure\n"
        );
    }
}
