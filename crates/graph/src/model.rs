//! A model as the file has it, before it becomes a graph that runs.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use prost::Message;
use prost::bytes::Buf;

use crate::error::LoadError;
use crate::graph::Graph;
use crate::load::{Folder, embed, load, load_cut, load_owned};
use crate::proto::ModelProto;
use crate::stream::Stream;
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
        let length = check_length(bytes.len() as u64)?;
        survey::check(bytes, length)?;
        Ok(Self { proto: parse(bytes)?, folder: None })
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
        let unreadable = |source| LoadError::Read { path: path.to_owned(), source };
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        // A pipe can be read only once, and does not say how long it is.
        if !metadata.is_file() {
            let mut bytes = Vec::new();
            file.take(MAX_MODEL_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
            return Self::from_bytes_in(&bytes, folder);
        }
        let length = check_length(metadata.len())?;
        survey::check(BufReader::new(&file), length)?;
        file.rewind().map_err(unreadable)?;
        let mut stream = Stream::new(file, length);
        let parsed = parse(&mut stream);
        // What cannot be read is no model either: the first of two reasons is the true one.
        stream.finish().map_err(unreadable)?;
        let folder_error = |source| LoadError::Read { path: folder.to_owned(), source };
        Ok(Self { proto: parsed?, folder: Some(Folder::new(folder).map_err(folder_error)?) })
    }

    /// The graph, ready to run.
    pub fn graph(&self) -> Result<Graph, LoadError> {
        load(&self.proto, self.folder.as_ref()).map(Graph::new)
    }

    /// The same of a model that is not needed any more: its weights are in memory once, not twice.
    pub fn into_graph(self) -> Result<Graph, LoadError> {
        load_owned(self.proto, self.folder.as_ref()).map(Graph::new)
    }

    /// The part of the graph that computes `outputs` from `inputs`: values of the file's main graph, by their
    /// names there. What `inputs` names is given by the caller, whether it is an input of the graph, an
    /// initialiser, or what a node computes. What `outputs` do not need is not loaded, and need not be supported.
    ///
    /// A value between two nodes has the type and shape that the file declares of it (`value_info`). Where it
    /// declares nothing, the type is that of the nearest value before it that has one, if the operators between
    /// them keep it or say it, and any shape is taken; where the type does not follow, that is
    /// [`LoadError::UnknownType`]. A name that the graph does not have is [`LoadError::UnknownValue`], and inputs
    /// of the graph that `outputs` need but `inputs` do not name are [`LoadError::NotComputed`].
    ///
    /// ```
    /// # let bytes = include_bytes!("../tests/fixtures/perceptron.onnx");
    /// let model = stoker_graph::Model::from_bytes(bytes)?;
    /// // Of two outputs this graph computes one.
    /// let labels = model.subgraph(&["x"], &["label"])?;
    /// assert_eq!(labels.outputs().len(), 1);
    /// # Ok::<(), stoker_graph::LoadError>(())
    /// ```
    pub fn subgraph(&self, inputs: &[&str], outputs: &[&str]) -> Result<Graph, LoadError> {
        load_cut(&self.proto, self.folder.as_ref(), inputs, outputs).map(Graph::new)
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

/// The length of a file that is neither empty nor too large.
fn check_length(length: u64) -> Result<usize, LoadError> {
    match usize::try_from(length) {
        Ok(0) => Err(LoadError::NotOnnx { reason: "the file is empty".to_owned() }),
        Ok(length) if length <= MAX_MODEL_BYTES => Ok(length),
        _ => {
            let limit = MAX_MODEL_BYTES as u64;
            Err(LoadError::TooLarge { what: "file size in bytes", actual: length, limit })
        }
    }
}

fn parse(bytes: impl Buf) -> Result<ModelProto, LoadError> {
    ModelProto::decode(bytes).map_err(|error| LoadError::NotOnnx { reason: error.to_string() })
}
