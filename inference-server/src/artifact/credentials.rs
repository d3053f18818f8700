//! Credentials for a download, from a folder in which a Secret is mounted.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use reqwest::RequestBuilder;

/// Longest file that is read; a JWT of a large organisation has a few kilobytes.
const MAX_BYTES: u64 = 64 << 10;

/// What the server of the artifact wants to see. Has no text form, so that it cannot be logged.
#[derive(Clone)]
pub enum Credentials {
    /// `Authorization: Bearer`, from the file `token`.
    Bearer(String),
    /// `Authorization: Basic`, from the files `username` and `password`.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
}

/// Why a folder holds no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Neither form is there.
    #[error(
        "--credentials {0}: there is neither a file `token` nor the files `username` and `password`; check the Secret's keys"
    )]
    Missing(PathBuf),
    /// A file is there but cannot be used.
    #[error("--credentials: {file} cannot be used: {reason}")]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it; never its content.
        reason: String,
    },
}

impl Credentials {
    /// Reads a folder. A `token` wins over `username` and `password`.
    pub fn read(folder: &Path) -> Result<Self, CredentialsError> {
        if let Some(token) = read_file(folder, "token")? {
            return Ok(Self::Bearer(token));
        }
        match (read_file(folder, "username")?, read_file(folder, "password")?) {
            (Some(username), Some(password)) => Ok(Self::Basic { username, password }),
            _ => Err(CredentialsError::Missing(folder.to_owned())),
        }
    }

    /// Puts them into a request.
    pub fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Bearer(token) => request.bearer_auth(token),
            Self::Basic { username, password } => request.basic_auth(username, Some(password)),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bearer(_) => "Bearer",
            Self::Basic { .. } => "Basic",
        })
    }
}

/// The content of a file without the line end that editors and `echo` add. `None` when there is no such file.
fn read_file(folder: &Path, name: &str) -> Result<Option<String>, CredentialsError> {
    use std::io::Read as _;
    let file = folder.join(name);
    let unusable = |reason: String| CredentialsError::Unusable { file: file.clone(), reason };
    let mut text = String::new();
    match std::fs::File::open(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(error.to_string())),
        Ok(open) => {
            open.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|error| unusable(error.to_string()))?
        }
    };
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() || text.len() as u64 > MAX_BYTES {
        return Err(unusable(format!("it must hold 1 to {MAX_BYTES} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(unusable("it holds control characters".to_owned()));
    }
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn both_forms_are_read() {
        let bearer = folder(&[("token", "abc\n")]);
        assert!(matches!(Credentials::read(bearer.path()), Ok(Credentials::Bearer(token)) if token == "abc"));
        let basic = folder(&[("username", "u"), ("password", "p\r\n")]);
        let read = Credentials::read(basic.path());
        assert!(
            matches!(read, Ok(Credentials::Basic { username, password }) if username == "u" && password == "p")
        );
    }

    #[test]
    fn what_is_missing_or_unusable_is_named_without_its_content() {
        let missing = folder(&[("username", "u")]);
        let message = Credentials::read(missing.path()).unwrap_err().to_string();
        assert!(message.contains("neither a file `token`"), "{message}");
        for bad in ["", "\n", "two\nlines-hunter2"] {
            let unusable = folder(&[("token", bad)]);
            let message = Credentials::read(unusable.path()).unwrap_err().to_string();
            assert!(message.contains("token cannot be used") && !message.contains("hunter2"), "{message}");
        }
    }
}
