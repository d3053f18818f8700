//! Why a command could not do its work: what was wrong, where, and what to do. Pure; made from the client's errors.

use std::path::PathBuf;
use std::time::Duration;

use kube::core::Status;

use crate::exit::Exit;

/// What a call to the API server was for: names the right that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `get`, `list`, `watch`, `patch` or `create`.
    pub verb: &'static str,
    /// Plural and group, such as `modeldeployments.stoker.dev`.
    pub resource: &'static str,
    /// Where; none: in all namespaces, or of the cluster.
    pub namespace: Option<String>,
    /// The object, where it is about one.
    pub name: Option<String>,
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// There is no kubeconfig, or it cannot be used.
    #[error("the kubeconfig cannot be used: {0}; give --kubeconfig and --context, or set KUBECONFIG")]
    Kubeconfig(String),
    /// The API server was not reached.
    #[error(
        "the API server did not answer ({what}): {why}; is it reachable from here? `kubectl cluster-info` asks the same one"
    )]
    Unreachable {
        /// What was asked.
        what: String,
        /// What the client says.
        why: String,
    },
    /// The custom resources are not there.
    #[error(
        "the cluster does not know {resource}: Stoker is not installed there; install its CRDs and operator first (README, \"A cluster, with Stoker on it\")"
    )]
    NotInstalled {
        /// Which one.
        resource: &'static str,
    },
    /// There is no such object.
    #[error(
        "there is no ModelDeployment {name} in namespace {namespace}; `kubectl stoker list -A` shows all there are"
    )]
    NotFound {
        /// Its name.
        name: String,
        /// Where it was looked for.
        namespace: String,
    },
    /// A right is missing.
    #[error("forbidden: {message}; what is missing is the right to {right}")]
    Forbidden {
        /// What the API server says.
        message: String,
        /// Verb, resource and place.
        right: String,
    },
    /// The API server wants to know who calls.
    #[error(
        "the API server does not accept your credentials: {0}; log in again, or choose another --context"
    )]
    Unauthorised(String),
    /// It refused for a reason of its own.
    #[error("the API server refused to {what}: {message}")]
    Refused {
        /// Verb, resource and name.
        what: String,
        /// What it says.
        message: String,
    },
    /// An object that this release cannot read.
    #[error("ModelDeployment {name} cannot be read: {why}; the operator is of another release than this kubectl-stoker ({version}): install the one of its release", version = env!("CARGO_PKG_VERSION"))]
    Unreadable {
        /// Its name.
        name: String,
        /// What the parser says.
        why: String,
    },
    /// A file that cannot be read.
    #[error("{}: {why}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// Whoever read the output has enough of it.
    #[error("nobody reads the output any more")]
    Closed,
    /// Nothing to write to.
    #[error("the output cannot be written: {0}")]
    Output(#[from] std::io::Error),
    /// The command line, where clap cannot see it.
    #[error("{0}")]
    Usage(String),
    /// What the command asks for does not fit what is there.
    #[error("{0}")]
    Unfit(String),
    /// The answer did not come in time.
    #[error("{0}")]
    Late(String),
}

impl Trouble {
    /// The code that the process ends with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Kubeconfig(_)
            | Self::Unreachable { .. }
            | Self::NotInstalled { .. }
            | Self::Forbidden { .. }
            | Self::Unauthorised(_)
            | Self::Unreadable { .. }
            | Self::Output(_) => Exit::Unknown,
            Self::Closed => Exit::Well,
            Self::NotFound { .. } => Exit::Absent,
            Self::Refused { .. } | Self::Unfit(_) => Exit::Unwell,
            Self::Usage(_) | Self::File { .. } => Exit::Usage,
            Self::Late(_) => Exit::Unsettled,
        }
    }

    /// Whether to ask again may help: the API server restarts, or is too busy.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// What the client says of a call that failed.
    pub fn of(call: &Call, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::answered(call, status),
            kube::Error::Auth(_) => Self::Unauthorised(causes(error)),
            kube::Error::SerdeError(error) => {
                let name = call.name.clone().unwrap_or_else(|| call.resource.to_owned());
                Self::Unreadable { name, why: error.to_string() }
            }
            other => Self::Unreachable { what: call.to_string(), why: causes(other) },
        }
    }

    /// What the API server answered.
    fn answered(call: &Call, status: &Status) -> Self {
        let message = status.message.clone();
        match status.code {
            401 => Self::Unauthorised(message),
            403 => Self::Forbidden { message, right: call.to_string() },
            404 => match (&call.name, &call.namespace) {
                // The answer names the object that it did not find; where it names none, the kind itself is unknown.
                (Some(name), Some(namespace))
                    if status.details.as_ref().is_some_and(|details| details.name == *name) =>
                {
                    Self::NotFound { name: name.clone(), namespace: namespace.clone() }
                }
                _ => Self::NotInstalled { resource: call.resource },
            },
            429 | 500..=599 => Self::Unreachable { what: call.to_string(), why: message },
            _ => Self::Refused { what: call.to_string(), message },
        }
    }

    /// Nothing came within the deadline.
    pub fn timed_out(call: &Call, deadline: Duration) -> Self {
        Self::Unreachable { what: call.to_string(), why: format!("nothing within {} s", deadline.as_secs()) }
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => Ok(()),
        }
    }
}

/// An error with all its causes, none twice: many wrap the next one's words.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        next = cause.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call {
            verb: "get",
            resource: "modeldeployments.stoker.dev",
            namespace: Some("models".into()),
            name: Some("digits".into()),
        }
    }

    fn answer(code: u16, message: &str, about: Option<&str>) -> Trouble {
        let details = about.map(|name| serde_json::from_value(serde_json::json!({"name": name})).unwrap());
        let status = Status { code, message: message.to_owned(), details, ..Status::default() };
        Trouble::of(&call(), &kube::Error::Api(status.boxed()))
    }

    #[test]
    fn each_answer_has_its_sentence_and_its_code() {
        let cases = [
            (
                answer(404, "not found", Some("digits")),
                Exit::Absent,
                "there is no ModelDeployment digits in namespace models",
            ),
            (
                answer(404, "the server could not find the requested resource", None),
                Exit::Unknown,
                "Stoker is not installed",
            ),
            (answer(404, "404 page not found", Some("")), Exit::Unknown, "Stoker is not installed"),
            (
                answer(403, "User \"ann\" cannot get", None),
                Exit::Unknown,
                "the right to get modeldeployments.stoker.dev digits in namespace models",
            ),
            (answer(401, "Unauthorized", None), Exit::Unknown, "log in again"),
            (answer(503, "the server is shutting down", None), Exit::Unknown, "did not answer"),
            (answer(422, "Invalid value", None), Exit::Unwell, "refused to get"),
        ];
        for (trouble, exit, part) in cases {
            assert_eq!(trouble.exit(), exit, "{trouble}");
            assert!(trouble.to_string().contains(part), "{trouble}");
        }
    }

    #[test]
    fn only_what_may_pass_is_asked_again() {
        assert!(answer(503, "starting", None).passes());
        assert!(answer(429, "too many", None).passes());
        assert!(!answer(403, "no", None).passes());
        assert!(!answer(404, "no", Some("digits")).passes());
    }
}
