//! A file as the parser of its messages reads it: piece by piece, so that it is in memory once and not twice.

use std::fs::File;
use std::io::{self, Read};

use prost::bytes::Buf;

/// How much is read at a time.
const PIECE: usize = 1 << 20;

/// A file that is being parsed.
pub(crate) struct Stream {
    file: File,
    piece: Vec<u8>,
    /// What of the piece was taken.
    at: usize,
    /// What of the file comes after the piece.
    after: usize,
    error: Option<io::Error>,
}

impl Stream {
    /// The next `length` bytes of a file.
    pub(crate) fn new(file: File, length: usize) -> Self {
        let mut stream = Self { file, piece: Vec::new(), at: 0, after: length, error: None };
        stream.refill();
        stream
    }

    /// What went wrong when the file was read.
    pub(crate) fn finish(self) -> Result<(), io::Error> {
        self.error.map_or(Ok(()), Err)
    }

    fn refill(&mut self) {
        self.at = 0;
        self.piece.resize(self.after.min(PIECE), 0);
        self.after -= self.piece.len();
        if self.error.is_none() {
            self.error = self.file.read_exact(&mut self.piece).err();
        }
        if self.error.is_some() {
            // A parser cannot be told. It goes on with zeros, which are no message.
            self.piece.fill(0);
        }
    }
}

impl Buf for Stream {
    fn remaining(&self) -> usize {
        self.piece.len() - self.at + self.after
    }

    fn chunk(&self) -> &[u8] {
        &self.piece[self.at..]
    }

    fn advance(&mut self, mut count: usize) {
        loop {
            let here = count.min(self.piece.len() - self.at);
            self.at += here;
            count -= here;
            if self.at < self.piece.len() || self.after == 0 {
                // As all buffers do.
                assert!(count == 0, "more is taken than there is");
                return;
            }
            self.refill();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(contents: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(contents).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        file
    }

    #[test]
    fn pieces_are_one_after_the_other() {
        let contents: Vec<u8> = (0..2 * PIECE + 10).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut stream = Stream::new(file(&contents), contents.len());
        assert_eq!(stream.remaining(), contents.len());
        stream.advance(PIECE + 5);
        let rest = stream.copy_to_bytes(PIECE);
        assert_eq!(rest[..], contents[PIECE + 5..2 * PIECE + 5]);
        assert_eq!(stream.chunk(), &contents[2 * PIECE + 5..]);
        stream.advance(5);
        assert!(!stream.has_remaining());
        stream.finish().unwrap();
    }

    #[test]
    fn a_file_that_becomes_shorter_is_an_error_in_the_end() {
        let mut stream = Stream::new(file(&[1; 10]), PIECE + 10);
        assert_eq!(stream.copy_to_bytes(PIECE + 10).len(), PIECE + 10);
        stream.finish().unwrap_err();
    }
}
