//! Weights in files beside the model.
//!
//! A model that a stranger wrote names those files. Only plain names below the model's own folder are
//! followed: no absolute path, no `..`, no link that leads out of it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::ops::Refusal;
use crate::proto::StringStringEntryProto;
use crate::value::DType;

/// How often the bytes of a file may be read, taken together.
const MOST_READS: u64 = 4;

/// The folder that a model was loaded from.
pub(crate) struct Folder {
    path: PathBuf,
    /// The bytes that were read of each file.
    read: Mutex<HashMap<PathBuf, u64>>,
}

impl Folder {
    /// The folder at `path`, with all links on the way to it resolved.
    pub(crate) fn new(path: &Path) -> std::io::Result<Self> {
        Ok(Self { path: path.canonicalize()?, read: Mutex::default() })
    }

    /// The same folder for another load.
    pub(crate) fn again(&self) -> Self {
        Self { path: self.path.clone(), read: Mutex::default() }
    }

    /// The bytes of `count` elements of `dtype` that the entries point to.
    pub(super) fn read(
        &self,
        entries: &[StringStringEntryProto],
        dtype: DType,
        count: usize,
    ) -> Result<Vec<u8>, Refusal> {
        let wrong = |reason: String| Refusal::Invalid(reason);
        let entry =
            |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| wrong(format!("`{key}` is `{text}`"))),
        };
        let location =
            entry("location").ok_or_else(|| wrong("its data is in a file without a name".to_owned()))?;
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let wanted = (count as u64).checked_mul(dtype.bits() as u64).map(|bits| bits.div_ceil(8));
        let wanted = wanted.filter(|_| dtype != DType::String);
        let Some(wanted) = wanted.filter(|&wanted| length.is_none_or(|length| length == wanted)) else {
            return Err(wrong(format!(
                "`{location}` holds {length:?} bytes for {count} elements of {dtype}"
            )));
        };
        let (path, mut file) = self.open(location)?;
        let size = file.metadata().map_err(|error| wrong(format!("`{location}`: {error}")))?.len();
        // Before memory is taken: what is asked for must be there.
        if offset.checked_add(wanted).is_none_or(|end| end > size) {
            return Err(wrong(format!(
                "`{location}` has {size} bytes, too few for {wanted} from {offset} on"
            )));
        }
        // Many tensors may share bytes, but a small file is no source of endless ones.
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let total = read.entry(path).or_default();
        *total = total.saturating_add(wanted);
        if *total > size.saturating_mul(MOST_READS) {
            return Err(wrong(format!("`{location}` is read more than {MOST_READS} times over")));
        }
        let mut bytes = vec![0; usize::try_from(wanted).map_err(|error| wrong(error.to_string()))?];
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| wrong(format!("`{location}` cannot be read: {error}")))?;
        Ok(bytes)
    }

    fn open(&self, location: &str) -> Result<(PathBuf, File), Refusal> {
        let relative = Path::new(location);
        let plain =
            relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        let refused =
            || Refusal::Invalid(format!("its data is at `{location}`, outside of the model's folder"));
        if !plain || location.is_empty() {
            return Err(refused());
        }
        let gone =
            |error| Refusal::Invalid(format!("its data is in `{location}`, which cannot be read: {error}"));
        let path = self.path.join(relative).canonicalize().map_err(gone)?;
        // Opening a pipe would wait for ever.
        if !path.starts_with(&self.path) || !path.is_file() {
            return Err(refused());
        }
        let file = File::open(&path).map_err(gone)?;
        Ok((path, file))
    }
}
