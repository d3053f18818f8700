//! Where the bytes of an artifact go while they come in: memory, a file, or nowhere.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{ErrorKind, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

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
pub(super) struct Temporary {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Temporary {
    /// Makes a file beside `target`, which stays as it is until [`Temporary::keep`].
    pub(super) fn beside(target: &Path) -> Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!(".{name}.part"));
        // Of a fetch that was killed. A link is removed, not followed.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, path, kept: false })
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
        assert_eq!(names(folder.path()), [".a.onnx.part"]);
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
    fn a_link_in_the_temporary_file_s_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(outside.path(), "untouched").unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join(".a.onnx.part")).unwrap();
        let mut file = Temporary::beside(&folder.path().join("a.onnx")).unwrap();
        file.write(b"bytes").unwrap();
        assert_eq!(std::fs::read(outside.path()).unwrap(), b"untouched");
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut full = Temporary { file, path: "/no/such/file".into(), kept: false };
        assert_eq!(full.write(b"a").unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
