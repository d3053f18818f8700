//! A model as the file has it, before it becomes a graph that runs.

use std::path::Path;

use prost::Message;

use crate::error::LoadError;
use crate::graph::Graph;
use crate::load::{Folder, embed, load};
use crate::proto::ModelProto;
use crate::survey;

/// The largest file: the limit of the protobuf format.
pub(crate) const MAX_MODEL_BYTES: usize = (1 << 31) - 1;

/// The contents of an ONNX file.
pub struct Model {
    pub(crate) proto: ModelProto,
    /// Where weights outside of the file may be.
    pub(crate) folder: Option<Folder>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Model")
            .field("producer", &self.proto.producer_name)
            .field("nodes", &self.proto.graph.as_ref().map_or(0, |graph| graph.node.len()))
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Reads an ONNX model from memory. Nothing outside of `bytes` is read: a model with weights in other
    /// files needs [`Model::from_bytes_in`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        if bytes.len() > MAX_MODEL_BYTES {
            let (actual, limit) = (bytes.len() as u64, MAX_MODEL_BYTES as u64);
            return Err(LoadError::TooLarge { what: "file size in bytes", actual, limit });
        }
        if bytes.is_empty() {
            return Err(LoadError::NotOnnx { reason: "the file is empty".to_owned() });
        }
        survey::check(bytes)?;
        let proto =
            ModelProto::decode(bytes).map_err(|error| LoadError::NotOnnx { reason: error.to_string() })?;
        Ok(Self { proto, folder: None })
    }

    /// Reads an ONNX model from memory whose weights may be in files below `folder`. Names that lead out of
    /// it are refused.
    pub fn from_bytes_in(bytes: &[u8], folder: &Path) -> Result<Self, LoadError> {
        let unreadable = |source| LoadError::Read { path: folder.to_owned(), source };
        let folder = Folder::new(folder).map_err(unreadable)?;
        Ok(Self { folder: Some(folder), ..Self::from_bytes(bytes)? })
    }

    /// Reads an ONNX model from a file, whose weights may be in files beside it.
    pub fn from_file(path: &Path) -> Result<Self, LoadError> {
        let bytes =
            std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Self::from_bytes_in(&bytes, folder.unwrap_or(Path::new(".")))
    }

    /// The graph, ready to run.
    pub fn graph(&self) -> Result<Graph, LoadError> {
        load(&self.proto, self.folder.as_ref()).map(Graph::new)
    }

    /// The file's bytes, weights included: nothing outside of them is needed to read them.
    ///
    /// What this crate does not know is not in them: information on training and quantisation of values
    /// (`training_info`, `quantization_annotation`). An error is a model larger than the 2 GiB of protobuf.
    pub fn to_bytes(&self) -> Result<Vec<u8>, LoadError> {
        let mut proto = self.proto.clone();
        embed(&mut proto, self.folder.as_ref())?;
        let size = proto.encoded_len();
        if size > MAX_MODEL_BYTES {
            let (actual, limit) = (size as u64, MAX_MODEL_BYTES as u64);
            return Err(LoadError::TooLarge { what: "file size in bytes", actual, limit });
        }
        Ok(proto.encode_to_vec())
    }
}
