//! Credentials for a download, from a folder in which a Secret is mounted.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use reqwest::{RequestBuilder, Url};

use super::{Location, Service};

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
    /// For `s3://`.
    S3(Box<S3Keys>),
    /// For `gs://`, from the file `serviceAccount`: a service account's key as Google hands it out, JSON.
    Google(String),
    /// For `az://`.
    Azure {
        /// Key or token; nothing for a public container.
        key: Option<AzureKey>,
        /// Where the account is, from the file `endpoint`; default: Azure's public cloud.
        endpoint: Option<String>,
    },
}

/// What signs requests to S3, and where they go. Each part is in a file of its name.
#[derive(Clone, Default)]
pub struct S3Keys {
    /// `accessKeyId` and `secretAccessKey`; nothing for a public bucket.
    pub key: Option<(String, String)>,
    /// `sessionToken`, of temporary keys.
    pub session_token: Option<String>,
    /// `region`; default: us-east-1.
    pub region: Option<String>,
    /// `endpoint`, such as `https://minio.example:9000`; default: Amazon's of the region.
    pub endpoint: Option<String>,
}

/// What opens an Azure container.
#[derive(Clone)]
pub enum AzureKey {
    /// The account's key in base64, from the file `accountKey`.
    Account(String),
    /// A shared access signature, from the file `sasToken`.
    Sas(String),
}

/// Why a folder holds no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Neither form is there.
    #[error("--credentials {folder}: {wanted}; check the Secret's keys")]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// What should be in it.
        wanted: &'static str,
    },
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
    /// Reads a folder for what `location` wants.
    ///
    /// - http and https: `token`, which wins, or `username` and `password`;
    /// - `s3://`: `accessKeyId` and `secretAccessKey`, with `sessionToken`, `region` and `endpoint` where they are needed; a public
    ///   bucket needs only the last two;
    /// - `gs://`: `serviceAccount`;
    /// - `az://`: `accountKey` or `sasToken`, and `endpoint`; a public container needs only the last one.
    pub fn read(folder: &Path, location: &Location) -> Result<Self, CredentialsError> {
        let missing = |wanted| CredentialsError::Missing { folder: folder.to_owned(), wanted };
        let file = |name| read_line(folder, name);
        match location {
            Location::File(_) | Location::Http(_) => {
                if let Some(token) = file("token")? {
                    return Ok(Self::Bearer(token));
                }
                match (file("username")?, file("password")?) {
                    (Some(username), Some(password)) => Ok(Self::Basic { username, password }),
                    _ => Err(missing(
                        "there is neither a file `token` nor the files `username` and `password`",
                    )),
                }
            }
            Location::Object(object) => match &object.service {
                Service::S3 => {
                    let key = match (file("accessKeyId")?, file("secretAccessKey")?) {
                        (Some(id), Some(secret)) => Some((id, secret)),
                        (None, None) => None,
                        _ => return Err(missing("of `accessKeyId` and `secretAccessKey` there is only one")),
                    };
                    let (session_token, region) = (file("sessionToken")?, file("region")?);
                    let endpoint = read_endpoint(folder)?;
                    if key.is_none() && region.is_none() && endpoint.is_none() {
                        return Err(missing("there are no files `accessKeyId` and `secretAccessKey`"));
                    }
                    Ok(Self::S3(Box::new(S3Keys { key, session_token, region, endpoint })))
                }
                Service::Google => match read_text(folder, "serviceAccount")? {
                    Some(account) => Ok(Self::Google(account)),
                    None => Err(missing("there is no file `serviceAccount`")),
                },
                Service::Azure { .. } => {
                    let key = match (file("accountKey")?, file("sasToken")?) {
                        (Some(key), _) => Some(AzureKey::Account(key)),
                        (None, sas) => sas.map(AzureKey::Sas),
                    };
                    let endpoint = read_endpoint(folder)?;
                    if key.is_none() && endpoint.is_none() {
                        return Err(missing("there is neither a file `accountKey` nor a file `sasToken`"));
                    }
                    Ok(Self::Azure { key, endpoint })
                }
            },
        }
    }

    /// Puts them into a request to a web server. Those of object stores are not for these.
    pub(super) fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Bearer(token) => request.bearer_auth(token),
            Self::Basic { username, password } => request.basic_auth(username, Some(password)),
            Self::S3(_) | Self::Google(_) | Self::Azure { .. } => request,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bearer(_) => "Bearer",
            Self::Basic { .. } => "Basic",
            Self::S3(_) => "S3",
            Self::Google(_) => "Google",
            Self::Azure { .. } => "Azure",
        })
    }
}

/// An address of a store: http or https, a host, perhaps a path.
fn read_endpoint(folder: &Path) -> Result<Option<String>, CredentialsError> {
    let Some(text) = read_line(folder, "endpoint")? else { return Ok(None) };
    let usable = Url::parse(&text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    if usable {
        return Ok(Some(text));
    }
    let reason = "it must be http://host or https://host, perhaps with a port and a path".to_owned();
    Err(CredentialsError::Unusable { file: folder.join("endpoint"), reason })
}

/// The content of a file without the line end that editors and `echo` add. `None` when there is no such file.
fn read_line(folder: &Path, name: &str) -> Result<Option<String>, CredentialsError> {
    let text = read_text(folder, name)?;
    if text.as_deref().is_some_and(|text| text.chars().any(char::is_control)) {
        let reason = "it holds control characters".to_owned();
        return Err(CredentialsError::Unusable { file: folder.join(name), reason });
    }
    Ok(text)
}

/// As [`read_line`], of any number of lines.
fn read_text(folder: &Path, name: &str) -> Result<Option<String>, CredentialsError> {
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
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
#[path = "credentials/tests.rs"]
mod tests;
