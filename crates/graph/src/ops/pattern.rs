//! Regular expressions as RE2 writes them, run by the crate `regex`.
//!
//! Both know the same constructs and both take linear time. Where they differ in what the same letters
//! mean, the pattern is written anew: RE2's `\d`, `\s`, `\w` and `\b` are of ASCII only, a `[` in a class
//! is itself, and so are `&&` and `~~`. The reference is RE2's own page, "Syntax".

use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};

use super::Refusal;

/// The most memory that a compiled pattern may take: a pattern of a few letters can ask for any size.
const MOST_BYTES: usize = 1 << 20;

/// A pattern that matches whole strings only.
pub(super) fn compile(pattern: &str) -> Result<Regex, Refusal> {
    let own = rewrite(pattern).map_err(refused)?;
    // Alone first: brackets that do not match in it must not find theirs in what is put around it.
    build(&own)?;
    build(&format!(r"\A(?:{own})\z"))
}

/// A pattern that is looked for.
pub(super) fn finder(pattern: &str) -> Result<Regex, Refusal> {
    build(&rewrite(pattern).map_err(refused)?)
}

fn build(own: &str) -> Result<Regex, Refusal> {
    let built = RegexBuilder::new(own).size_limit(MOST_BYTES).dfa_size_limit(MOST_BYTES).build();
    built.map_err(refused)
}

fn refused(reason: impl std::fmt::Display) -> Refusal {
    Refusal::Unsupported(format!("the pattern is not supported: {reason}"))
}

/// The same pattern in the syntax of `regex`; a reason where it has none.
fn rewrite(pattern: &str) -> Result<String, &'static str> {
    let mut own = String::with_capacity(pattern.len());
    let mut letters = pattern.chars().peekable();
    // In a class, how many letters of it have been seen.
    let mut class: Option<usize> = None;
    while let Some(letter) = letters.next() {
        let seen = class;
        class = class.map(|count| count + 1);
        match (letter, seen) {
            ('\\', _) => escape(&mut letters, &mut own, seen.is_some())?,
            ('[', None) => {
                own.push('[');
                own.extend(letters.next_if_eq(&'^'));
                // A `]` that comes first is itself.
                own.push_str(if letters.next_if_eq(&']').is_some() { r"\]" } else { "" });
                class = Some(0);
            }
            ('[', Some(_)) if letters.peek() == Some(&':') => named_class(&mut letters, &mut own)?,
            (']', Some(_)) => {
                own.push(']');
                class = None;
            }
            ('-', Some(_)) if letters.peek() == Some(&'-') => return Err("a class holds `--`"),
            ('[' | '&' | '~', Some(_)) => own.extend(['\\', letter]),
            ('(', None) => {
                own.push('(');
                flags(&letters)?;
            }
            ('{', None) if !is_count(&letters) => own.push_str(r"\{"),
            _ => own.push(letter),
        }
    }
    Ok(own)
}

/// What stands after a backslash.
fn escape(letters: &mut Peekable<Chars<'_>>, own: &mut String, in_class: bool) -> Result<(), &'static str> {
    let letter = letters.next().ok_or("it ends with a backslash")?;
    match letter {
        'd' => own.push_str("[0-9]"),
        'D' => own.push_str("[^0-9]"),
        's' => own.push_str(r"[\t\n\f\r ]"),
        'S' => own.push_str(r"[^\t\n\f\r ]"),
        'w' => own.push_str("[0-9A-Za-z_]"),
        'W' => own.push_str("[^0-9A-Za-z_]"),
        'b' | 'B' if in_class => return Err("a class holds a boundary of words"),
        'b' => own.push_str(r"(?-u:\b)"),
        'B' => own.push_str(r"(?-u:\B)"),
        'Q' => {
            // Up to `\E` or the end, each letter is itself.
            let mut rest = String::new();
            while let Some(letter) = letters.next() {
                if letter == '\\' && letters.next_if_eq(&'E').is_some() {
                    break;
                }
                rest.push(letter);
            }
            own.push_str(&regex::escape(&rest));
        }
        'C' => return Err(r"`\C` matches bytes"),
        'E' => {}
        // Forms of which RE2 knows nothing.
        '<' | '>' | 'u' | 'U' => return Err("it has an escape that RE2 does not have"),
        other => own.extend(['\\', other]),
    }
    Ok(())
}

/// `[:name:]` in a class.
fn named_class(letters: &mut Peekable<Chars<'_>>, own: &mut String) -> Result<(), &'static str> {
    own.push('[');
    for letter in letters.by_ref() {
        own.push(letter);
        match letter {
            ']' => return Ok(()),
            ':' | '^' | 'a'..='z' => {}
            _ => break,
        }
    }
    Err("the name of a class is not right")
}

/// Looks at the flags of a group: those that RE2 does not have are refused.
fn flags(letters: &Peekable<Chars<'_>>) -> Result<(), &'static str> {
    let mut ahead = letters.clone();
    if ahead.next() != Some('?') {
        return Ok(());
    }
    for letter in ahead {
        match letter {
            ':' | ')' | '<' | 'P' => return Ok(()),
            'i' | 'm' | 's' | 'U' | '-' => {}
            _ => return Err("a group has a flag that RE2 does not have"),
        }
    }
    Ok(())
}

/// True where a `{` begins a count of repetitions; else it is itself.
fn is_count(letters: &Peekable<Chars<'_>>) -> bool {
    let mut ahead = letters.clone().peekable();
    let mut digits = 0;
    while ahead.next_if(char::is_ascii_digit).is_some() {
        digits += 1;
    }
    if ahead.next_if_eq(&',').is_some() {
        while ahead.next_if(char::is_ascii_digit).is_some() {}
    }
    digits > 0 && ahead.next() == Some('}')
}

#[cfg(test)]
mod tests {
    use super::compile;

    fn matches(pattern: &str, text: &str) -> bool {
        compile(pattern).unwrap_or_else(|refusal| panic!("{pattern}: {refusal:?}")).is_match(text)
    }

    #[test]
    fn a_match_is_that_of_the_whole_string() {
        assert!(matches("a|ab", "ab"));
        assert!(!matches("a", "ab"));
        assert!(!matches("a$", "a\n"));
        assert!(matches("", ""));
    }

    #[test]
    fn what_re2_means_otherwise_is_written_anew() {
        assert!(!matches(r"\d", "٣") && matches(r"\d", "3"));
        assert!(!matches(r"\w+", "é") && matches("[[:alpha:]]+", "az"));
        assert!(matches(r"[a[]+", "[a") && matches("[]a]+", "]a") && matches("[^]a]", "b"));
        assert!(matches("[a&&b]+", "a&b") && matches(r"[\d_]+", "1_") && matches(r"[^\d]", "a"));
        assert!(matches("a{,2}", "a{,2}") && matches("a{1,2}", "aa") && matches("{", "{"));
        assert!(matches(r"\Qa.b\E.", "a.bc") && !matches(r"\Qa.b\E", "axb"));
        assert!(matches(r"a\b.b", "a b") && matches(r"a\Bb", "ab") && matches(r"\pL", "é"));
        assert!(matches("(?i)STRA(?P<x>S)", "stras"));
    }

    #[test]
    fn what_re2_does_not_have_is_refused() {
        for pattern in ["a)|(?:b", "(?x)a # b", "(?=a)", r"(a)\1", "(a", r"a\", "[a--b]", "(?:a{1000}){1000}"]
        {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }
}
