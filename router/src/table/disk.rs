//! The last good tables and pods on disk, for a start while the API server is away.
//!
//! One file: a line with a checksum, then JSON. It is replaced as a whole (written beside, synced, renamed), so a crash
//! leaves the old or the new one; anything else is refused and the router starts without it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stoker_api::ModelRoute;
use stoker_api::exchange::KnownCut;

use crate::live::Addresses;

/// Name of the file in the state folder.
const FILE: &str = "tables";
/// How its first line begins; the checksum follows.
const MARK: &str = "stoker-router tables v1 sha256:";
/// A larger file was not written by a router.
const LARGEST: u64 = 64 << 20;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// The namespace; a file of another one is refused.
    pub namespace: String,
    /// The tables that were served.
    pub routes: Vec<ModelRoute>,
    /// The pods of each revision, and the other routers.
    pub pods: BTreeMap<String, Addresses>,
    /// The cuts that hold. Earlier releases wrote none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<KnownCut>,
}

/// Why the file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The disk failed.
    #[error("{path}: {error}; is the state folder mounted and writable?")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The content is not what a router wrote.
    #[error("{path}: {reason}; the file is ignored and replaced by the next tables")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Writes `saved` into the state folder.
pub fn save(folder: &Path, saved: &Saved) -> Result<(), DiskError> {
    let path = folder.join(FILE);
    let beside = folder.join(format!("{FILE}.new"));
    let failed = |error| DiskError::Io { path: path.clone(), error };
    let text = serde_json::to_vec(saved).map_err(|error| failed(error.into()))?;
    let write = || {
        let mut file = File::create(&beside)?;
        writeln!(file, "{MARK}{}", hex::encode(Sha256::digest(&text)))?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        // The rename itself is on disk only when the folder is.
        File::open(folder)?.sync_all()
    };
    write().map_err(failed)
}

/// Reads what was saved for `namespace`; `None` when there is no file.
pub fn load(folder: &Path, namespace: &str) -> Result<Option<Saved>, DiskError> {
    let path = folder.join(FILE);
    let failed = |error| DiskError::Io { path: path.clone(), error };
    let corrupt = |reason: String| DiskError::Corrupt { path: path.clone(), reason };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut content = Vec::new();
    file.take(LARGEST).read_to_end(&mut content).map_err(failed)?;
    let end =
        content.iter().position(|b| *b == b'\n').ok_or_else(|| corrupt("it has no first line".into()))?;
    let (line, text) = (&content[..end], &content[end + 1..]);
    let wanted =
        line.strip_prefix(MARK.as_bytes()).ok_or_else(|| corrupt("its first line is not ours".into()))?;
    if wanted != hex::encode(Sha256::digest(text)).as_bytes() {
        return Err(corrupt("the checksum does not fit".into()));
    }
    let saved: Saved = serde_json::from_slice(text).map_err(|error| corrupt(error.to_string()))?;
    if saved.namespace != namespace {
        return Err(corrupt(format!("it is of namespace {:?}", saved.namespace)));
    }
    Ok(Some(saved))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Saved {
        let pods = Addresses { ready: vec![], leaving: vec![] };
        let cut =
            serde_json::from_value(serde_json::json!({"uid": "u", "cut": {"run": 3, "revision": "digits-1",
            "because": "it failed", "by": "stoker-router-x", "at": "2026-01-02T03:04:05Z"}}));
        Saved {
            namespace: "team".into(),
            routes: vec![],
            pods: [("digits-1".into(), pods)].into(),
            cuts: vec![cut.unwrap()],
        }
    }

    /// Byte for byte what a release without cuts wrote.
    #[test]
    fn files_of_earlier_releases_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let text = br#"{"namespace":"team","routes":[],"pods":{"digits-1":{"ready":[],"leaving":[]}}}"#;
        let mut content = format!("{MARK}{}\n", hex::encode(Sha256::digest(text))).into_bytes();
        content.extend_from_slice(text);
        fs::write(folder.path().join(FILE), content).unwrap();
        let old = Saved { cuts: vec![], ..saved() };
        assert_eq!(load(folder.path(), "team").unwrap(), Some(old.clone()));
        // Without cuts the form is still the same.
        assert_eq!(serde_json::to_vec(&old).unwrap(), text);
    }

    #[test]
    fn what_was_saved_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path(), "team").unwrap(), None);
        save(folder.path(), &saved()).unwrap();
        save(folder.path(), &saved()).unwrap();
        assert_eq!(load(folder.path(), "team").unwrap(), Some(saved()));
        assert!(matches!(load(folder.path(), "other"), Err(DiskError::Corrupt { .. })));
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), &saved()).unwrap();
        let path = folder.path().join(FILE);
        let good = fs::read(&path).unwrap();
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 0x20;
            fs::write(&path, &bad).unwrap();
            assert!(load(folder.path(), "team").is_err(), "a change at byte {position} was not noticed");
            fs::write(&path, &good[..position]).unwrap();
            assert!(load(folder.path(), "team").is_err(), "a file cut at byte {position} was read");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_with_its_path() {
        let error = save(Path::new("/nonexistent/state"), &saved()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/state/tables"), "{error}");
    }
}
