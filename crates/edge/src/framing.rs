//! Strict framing of HTTP/1 requests (RFC 9112): where each head and each body ends, found out before hyper sees it.
//!
//! hyper 1.12 refuses most of what could be read in two ways, but takes a request with both `Content-Length` and
//! `Transfer-Encoding`, the same length twice, codings before `chunked`, and lines that end in a bare LF; afterwards its
//! headers do not show it. Another reader may cut such a request elsewhere, and what is a body for one of the two is
//! the next request for the other. So the bytes are followed here on their way to hyper, head by head, through bodies
//! as well: a body's bytes are no head.
//!
//! A head that is wrong is still given to hyper; the service is told by [`Activity`](crate::connection::Activity) not to
//! serve it. A body that is wrong ends where it went wrong. Whatever hyper refuses by itself is left to it.

use memchr::memchr;

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fault {
    BareLineFeed = 1,
    BlankLines,
    LengthAndCoding,
    Length,
    Coding,
    Host,
    Upgrade,
    LongLine,
}

impl Fault {
    const ALL: [Self; 8] = [
        Self::BareLineFeed,
        Self::BlankLines,
        Self::LengthAndCoding,
        Self::Length,
        Self::Coding,
        Self::Host,
        Self::Upgrade,
        Self::LongLine,
    ];

    /// By its number.
    pub(crate) fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| *fault as u8 == number)
    }

    /// What the client is told.
    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::BareLineFeed => "a line of the request's head ends without CR; end lines with CR LF",
            Self::BlankLines => "there are blank lines before the request",
            Self::LengthAndCoding => {
                "the request has both Content-Length and Transfer-Encoding; send one of them"
            }
            Self::Length => "the request's Content-Length is repeated or no number; send it once",
            Self::Coding => "the request's Transfer-Encoding is not the one word chunked",
            Self::Host => "a request must have exactly one Host header",
            Self::Upgrade => {
                "the request has Upgrade without Connection: upgrade; this port upgrades nothing"
            }
            Self::LongLine => "a line of the request's head is too long",
        }
    }
}

/// Why bytes are not to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// The head after so many good ones.
    Head { after: u64, fault: Fault },
    /// A body is malformed after so many bytes of those that were read.
    Body { good: usize },
}

/// Where the reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before or in a request line.
    Start,
    /// In the fields of a head.
    Fields,
    /// In a body of which so much is left.
    Body(u64),
    /// Before or in the line that gives a chunk's size.
    Size,
    /// In a chunk of which so much is left.
    Chunk(u64),
    /// In the line end after a chunk.
    ChunkEnd,
    /// After the last chunk.
    Trailers,
    /// A head was wrong: nothing after it is served, so nothing after it is looked at.
    Over,
}

/// What a head has said so far about its body and its connection.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    length: Option<u64>,
    chunked: bool,
    host: bool,
    upgrade: Upgrade,
}

/// Half of what an upgrade takes is no upgrade (RFC 9110, 7.8).
#[derive(Clone, Copy, Debug, Default)]
struct Upgrade {
    /// The field is there.
    named: bool,
    /// `Connection` names it.
    asked: bool,
}

/// Follows the requests of one connection.
#[derive(Debug)]
pub(crate) struct Framing {
    at: At,
    head: Head,
    /// A blank line came before the request line.
    blank: bool,
    /// Heads that ended.
    heads: u64,
    /// The beginning of a line whose end was not read yet.
    line: Vec<u8>,
    longest: usize,
}

impl Framing {
    /// For a connection that has just been opened; no line may be longer than `longest` bytes.
    pub(crate) fn new(longest: usize) -> Self {
        Self { at: At::Start, head: Head::default(), blank: false, heads: 0, line: Vec::new(), longest }
    }

    /// Takes the next bytes of the connection.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let before = bytes.len() - rest.len();
            match &mut self.at {
                At::Over => return Ok(()),
                At::Body(left) | At::Chunk(left) => {
                    let step = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    rest = &rest[step..];
                    *left -= step as u64;
                    match self.at {
                        At::Body(0) => self.at = At::Start,
                        At::Chunk(0) => self.at = At::ChunkEnd,
                        _ => {}
                    }
                }
                _ => {
                    let Some(end) = memchr(b'\n', rest) else {
                        if self.line.len() + rest.len() > self.longest {
                            return Err(self.wrong(Fault::LongLine, before));
                        }
                        self.line.extend_from_slice(rest);
                        return Ok(());
                    };
                    let (line, after) = rest.split_at(end + 1);
                    let taken = if self.line.is_empty() {
                        self.line(line)
                    } else {
                        let mut whole = std::mem::take(&mut self.line);
                        whole.extend_from_slice(line);
                        self.line(&whole)
                    };
                    taken.map_err(|fault| self.wrong(fault, before))?;
                    rest = after;
                }
            }
        }
        Ok(())
    }

    fn wrong(&mut self, fault: Fault, good: usize) -> Wrong {
        let head = matches!(self.at, At::Start | At::Fields);
        self.at = At::Over;
        self.line = Vec::new();
        if head { Wrong::Head { after: self.heads, fault } } else { Wrong::Body { good } }
    }

    /// Takes a whole line. What it reports of a body is not told any further than that it is wrong.
    fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let Some(text) = line.strip_suffix(b"\r\n") else { return Err(Fault::BareLineFeed) };
        match self.at {
            // RFC 9112, 2.2: a blank line before a request is ignored.
            At::Start if text.is_empty() => {
                if std::mem::replace(&mut self.blank, true) {
                    return Err(Fault::BlankLines);
                }
            }
            At::Start => {
                (self.head, self.blank) = (Head::default(), false);
                self.at = At::Fields;
            }
            At::Fields if text.is_empty() => {
                if self.head.upgrade.named && !self.head.upgrade.asked {
                    return Err(Fault::Upgrade);
                }
                self.heads += 1;
                self.at = match self.head {
                    Head { chunked: true, .. } => At::Size,
                    Head { length: Some(length), .. } if length > 0 => At::Body(length),
                    _ => At::Start,
                };
            }
            At::Fields => self.head.field(text)?,
            At::Size => {
                self.at = match size(text).ok_or(Fault::Length)? {
                    0 => At::Trailers,
                    size => At::Chunk(size),
                }
            }
            At::ChunkEnd if text.is_empty() => self.at = At::Size,
            At::ChunkEnd => return Err(Fault::Length),
            At::Trailers if text.is_empty() => self.at = At::Start,
            At::Trailers | At::Body(_) | At::Chunk(_) | At::Over => {}
        }
        Ok(())
    }
}

impl Head {
    /// Takes a field. Its name is compared where the colon must be, so that most fields cost a few comparisons.
    fn field(&mut self, text: &[u8]) -> Result<(), Fault> {
        if let Some(value) = value(text, b"content-length") {
            if self.chunked {
                return Err(Fault::LengthAndCoding);
            }
            let length = decimal(value).ok_or(Fault::Length)?;
            if self.length.replace(length).is_some() {
                return Err(Fault::Length);
            }
        } else if let Some(value) = value(text, b"transfer-encoding") {
            if self.length.is_some() {
                return Err(Fault::LengthAndCoding);
            }
            if !value.eq_ignore_ascii_case(b"chunked") || std::mem::replace(&mut self.chunked, true) {
                return Err(Fault::Coding);
            }
        } else if value(text, b"host").is_some() {
            if std::mem::replace(&mut self.host, true) {
                return Err(Fault::Host);
            }
        } else if value(text, b"upgrade").is_some() {
            self.upgrade.named = true;
        } else if let Some(value) = value(text, b"connection") {
            let mut options = value.split(|b| *b == b',');
            self.upgrade.asked |= options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
        }
        Ok(())
    }
}

/// The value of a field, when it has this name.
fn value<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    if text.get(name.len()) != Some(&b':') || !text[..name.len()].eq_ignore_ascii_case(name) {
        return None;
    }
    Some(text[name.len() + 1..].trim_ascii())
}

/// A number of digits alone.
fn decimal(text: &[u8]) -> Option<u64> {
    let digit = |sum: u64, b: &u8| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, digit) }
}

/// The size of a chunk: hexadecimal digits alone, then nothing or an extension (RFC 9112, 7.1).
fn size(text: &[u8]) -> Option<u64> {
    let end = memchr(b';', text).unwrap_or(text.len());
    let digit = |sum: u64, b: &u8| {
        let digit = char::from(*b).to_digit(16)?;
        sum.checked_mul(16)?.checked_add(u64::from(digit))
    };
    if end == 0 { None } else { text[..end].iter().try_fold(0, digit) }
}

#[cfg(test)]
mod tests;
