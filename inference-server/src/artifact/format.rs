//! Names what an artifact is when it is no ONNX model.

use std::fmt;

/// A format of files that is uploaded in a model's place now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// No bytes.
    Empty,
    /// Also what PyTorch and Keras save.
    Zip,
    /// One compressed file, often a tar archive.
    Compressed,
    /// Many files, one after the other.
    Tar,
    /// Python's objects. Reading one runs what it says; nothing here does.
    Pickle,
    /// Hugging Face's tensors, without the graph.
    Safetensors,
    /// TensorFlow's and Keras' older files.
    Hdf5,
    /// NumPy's arrays.
    Numpy,
    /// What stands in Git for a large file.
    LfsPointer,
    /// HTML or XML: often an error page or a login with status 200.
    Markup,
    /// JSON: often an error of an API with status 200.
    Json,
}

impl Format {
    /// What `bytes` are by their first ones. `None` where that tells nothing.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        const STARTS: [(&[u8], Format); 17] = [
            (b"PK\x03\x04", Format::Zip),
            (b"PK\x05\x06", Format::Zip),
            (b"\x1f\x8b", Format::Compressed),
            (b"BZh", Format::Compressed),
            (b"\xfd7zXZ\0", Format::Compressed),
            (b"\x28\xb5\x2f\xfd", Format::Compressed),
            (b"7z\xbc\xaf\x27\x1c", Format::Compressed),
            // Protocols 2 to 5; those before have no mark.
            (b"\x80\x02", Format::Pickle),
            (b"\x80\x03", Format::Pickle),
            (b"\x80\x04", Format::Pickle),
            (b"\x80\x05", Format::Pickle),
            (b"\x89HDF\r\n\x1a\n", Format::Hdf5),
            (b"\x93NUMPY", Format::Numpy),
            (b"version https://git-lfs", Format::LfsPointer),
            (b"<", Format::Markup),
            (b"\xef\xbb\xbf<", Format::Markup),
            (b"{", Format::Json),
        ];
        if bytes.is_empty() {
            return Some(Self::Empty);
        }
        // POSIX.1-1988, ustar: after name, mode, owner, size, time, checksum, type and link.
        if bytes.get(257..262) == Some(&b"ustar"[..]) {
            return Some(Self::Tar);
        }
        // A length of eight bytes, then JSON.
        if bytes.get(8) == Some(&b'{') && bytes.get(4..8) == Some(&[0; 4][..]) {
            return Some(Self::Safetensors);
        }
        let text = bytes.trim_ascii_start();
        STARTS.iter().find_map(|(start, format)| {
            let from = if matches!(format, Self::Markup | Self::Json) { text } else { bytes };
            from.starts_with(start).then_some(*format)
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "it is empty; check that its upload was finished",
            Self::Zip => {
                "it is a zip archive, which PyTorch and Keras write too, and not an ONNX model; archives are not unpacked: upload the .onnx file itself, or export the model to ONNX"
            }
            Self::Compressed => {
                "it is a compressed file (such as .gz or .tar.gz) and not an ONNX model; archives are not unpacked: upload the .onnx file itself"
            }
            Self::Tar => {
                "it is a tar archive and not an ONNX model; archives are not unpacked: upload the .onnx file itself"
            }
            Self::Pickle => {
                "it is a Python pickle and not an ONNX model; pickles are never executed: export the model to ONNX"
            }
            Self::Safetensors => "it is a safetensors file, which has no graph; export the model to ONNX",
            Self::Hdf5 => "it is an HDF5 file and not an ONNX model; export the model to ONNX",
            Self::Numpy => "it is a NumPy array and not an ONNX model; export the model to ONNX",
            Self::LfsPointer => "it is a Git LFS pointer and not the file that it points to; run `git lfs pull` before the upload",
            Self::Markup => {
                "it is an HTML or XML page and not an ONNX model; the server may have answered with an error page or a login: check the URI and the credentials"
            }
            Self::Json => {
                "it is JSON and not an ONNX model; the server may have answered with an error: check the URI and the credentials"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_a_model_s_place_are_named() {
        let tar = [&[b'a'; 257][..], b"ustar\0", &[0; 249]].concat();
        let cases: [(&[u8], Option<Format>); 14] = [
            (b"", Some(Format::Empty)),
            (b"PK\x03\x04rest", Some(Format::Zip)),
            (b"\x1f\x8b\x08", Some(Format::Compressed)),
            (&tar, Some(Format::Tar)),
            (b"\x80\x04\x95", Some(Format::Pickle)),
            (b"\x10\0\0\0\0\0\0\0{\"a\"", Some(Format::Safetensors)),
            (b"\x93NUMPY\x01", Some(Format::Numpy)),
            (b"version https://git-lfs.github.com/spec/v1\n", Some(Format::LfsPointer)),
            (b"\n <!DOCTYPE html>", Some(Format::Markup)),
            (b"  {\"error\": 1}", Some(Format::Json)),
            // The start of a model: ir_version, then the producer's name.
            (b"\x08\x08\x12\x07pytorch", None),
            (b"P", None),
            (b"\x80", None),
            (b"plain text", None),
        ];
        for (bytes, format) in cases {
            assert_eq!(Format::of(bytes), format, "{bytes:?}");
        }
    }
}
