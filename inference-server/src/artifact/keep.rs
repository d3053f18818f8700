//! Where the bytes of an artifact go while they come in: memory, a file, or nowhere.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// How many names are tried for a file before something is wrong with the folder.
const NAMES: usize = 16;
/// Digits of the random number in a temporary file's name.
const DIGITS: usize = 16;
/// The end of a temporary file's name.
const ENDING: &str = ".part";

/// Takes the bytes of an artifact in order.
pub(super) trait Keep: Send {
    /// Says how many bytes will come, before the first one. Not a promise.
    fn expect(&mut self, _length: u64) {}
    /// Forgets all bytes: the artifact comes again from its start.
    fn restart(&mut self) -> Result<()>;
    /// Takes the next bytes.
    fn write(&mut self, chunk: &[u8]) -> Result<()>;
}

/// Drops everything: only the digest is wanted.
pub(super) struct Nowhere;

impl Keep for Nowhere {
    fn restart(&mut self) -> Result<()> {
        Ok(())
    }

    fn write(&mut self, _chunk: &[u8]) -> Result<()> {
        Ok(())
    }
}

impl Keep for Vec<u8> {
    fn expect(&mut self, length: u64) {
        // A lie costs address space only: pages that are never written are never given. Without that much of it, the vector
        // grows as bytes come.
        if let Ok(length) = usize::try_from(length) {
            let _ = self.try_reserve_exact(length);
        }
    }

    fn restart(&mut self) -> Result<()> {
        self.clear();
        Ok(())
    }

    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.extend_from_slice(chunk);
        Ok(())
    }
}

/// A file that is not at its place yet. Dropped, it leaves nothing behind.
///
/// Its name is its own: two fetches into one folder do not write into one file. It is locked while it is written, so that the
/// next fetch can tell the file of one that was killed from that of one that still runs.
pub(super) struct Temporary {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Temporary {
    /// Makes a file beside `target`, which stays as it is until [`Temporary::keep`].
    pub(super) fn beside(target: &Path) -> Result<Self> {
        let start = format!(".{}.", target.file_name().unwrap_or_default().to_string_lossy());
        remove_abandoned(target, &start);
        for _ in 0..NAMES {
            // The keys of a hasher are the randomness that the standard library has.
            let number = RandomState::new().hash_one(0_u8);
            let path = target.with_file_name(format!("{start}{number:0DIGITS$x}{ENDING}"));
            let file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            };
            let mine = Self { file, path, kept: false };
            match mine.file.try_lock() {
                // Between the two steps another fetch may have taken it for abandoned.
                Ok(()) if mine.file.metadata()?.nlink() == 0 => {}
                Err(TryLockError::WouldBlock) => {}
                // Without locks nobody removes it either.
                Ok(()) | Err(TryLockError::Error(_)) => return Ok(mine),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Puts the file at `target`, whole or not at all, also through a crash of the machine: bytes first, then the name, then the
    /// folder that holds the name. Everybody may read it.
    pub(super) fn keep(mut self, target: &Path) -> Result<()> {
        self.file.set_permissions(Permissions::from_mode(0o644))?;
        self.file.sync_all()?;
        std::fs::rename(&self.path, target)?;
        self.kept = true;
        match target.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// Removes what fetches of the same file left behind that were killed: nobody holds the lock of such a file. What cannot be
/// removed stays; it harms nobody.
fn remove_abandoned(target: &Path, start: &str) {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(start)?.strip_suffix(ENDING));
        let is_ours = number.is_some_and(|n| n.len() == DIGITS && n.bytes().all(|b| b.is_ascii_hexdigit()));
        // Not a link, and not a pipe, which would wait for a reader.
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Ok(file) = OpenOptions::new().write(true).open(entry.path()) else { continue };
        // Held until the file is removed: its owner, should there be one just about to lock it, then makes another.
        if file.try_lock().is_ok() {
            drop(std::fs::remove_file(entry.path()));
        }
    }
}

impl Keep for Temporary {
    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0)).map(drop)
    }

    fn write(&mut self, chunk: &[u8]) -> Result<()> {
        self.file.write_all(chunk)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing more can be done, and the next fetch tries again.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.onnx");
        let mut dropped = Temporary::beside(&target).unwrap();
        dropped.write(b"half").unwrap();
        assert_eq!(names(folder.path()).len(), 1);
        assert!(names(folder.path())[0].starts_with(".a.onnx."));
        drop(dropped);
        assert!(names(folder.path()).is_empty());

        let mut kept = Temporary::beside(&target).unwrap();
        kept.write(b"first version").unwrap();
        kept.restart().unwrap();
        kept.write(b"second").unwrap();
        kept.keep(&target).unwrap();
        assert_eq!(names(folder.path()), ["a.onnx"]);
        assert_eq!(std::fs::read(&target).unwrap(), b"second");
        assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[test]
    fn two_at_a_time_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.onnx");
        let mut slow = Temporary::beside(&target).unwrap();
        slow.write(b"half").unwrap();
        let mut fast = Temporary::beside(&target).unwrap();
        fast.write(b"whole").unwrap();
        fast.keep(&target).unwrap();
        slow.write(b" and half").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"whole");
        slow.keep(&target).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"half and half");
        assert_eq!(names(folder.path()), ["a.onnx"]);
    }

    #[test]
    fn what_a_killed_fetch_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(outside.path(), "untouched").unwrap();
        let left = [".a.onnx.0123456789abcdef.part", ".a.onnx.1123456789abcdef.part"];
        std::fs::write(folder.path().join(left[0]), "half").unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join(left[1])).unwrap();
        let others = [".a.onnx.part", ".b.onnx.0123456789abcdef.part", "a.onnx"];
        for name in others {
            std::fs::write(folder.path().join(name), "other").unwrap();
        }
        drop(Temporary::beside(&folder.path().join("a.onnx")).unwrap());
        assert_eq!(names(folder.path()), [left[1], others[0], others[1], others[2]]);
        assert_eq!(std::fs::read(outside.path()).unwrap(), b"untouched");
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut full = Temporary { file, path: "/no/such/file".into(), kept: false };
        assert_eq!(full.write(b"a").unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
