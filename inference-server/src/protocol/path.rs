//! What a URL of the protocol means.

/// A call of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call<'a> {
    /// `GET /v2`
    ServerMetadata,
    /// `GET /v2/health/live`
    ServerLive,
    /// `GET /v2/health/ready`
    ServerReady,
    /// `GET /v2/models/{model}[/versions/{version}]`
    ModelMetadata(Model<'a>),
    /// `GET /v2/models/{model}[/versions/{version}]/ready`
    ModelReady(Model<'a>),
    /// `POST /v2/models/{model}[/versions/{version}]/infer`
    Infer(Model<'a>),
    /// `GET /v2/models/stats`: of all models. A model that is called `stats` has its metadata under its version only.
    AllStatistics,
    /// `GET /v2/models/{model}[/versions/{version}]/stats`
    Statistics(Model<'a>),
    /// `GET /v2/models/{model}[/versions/{version}]/config`
    Configuration(Model<'a>),
    /// `POST /v2/repository/index`
    RepositoryIndex,
    /// `POST /v2/repository/models/{model}/load` and `/unload`
    LoadOrUnload(&'a str),
}

/// Which model a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model<'a> {
    /// The model's name.
    pub name: &'a str,
    /// The version, where the URL has one.
    pub version: Option<&'a str>,
}

impl<'a> Call<'a> {
    /// Reads the path of a URL. `None` is a path that the protocol does not have.
    pub fn parse(path: &'a str) -> Option<Self> {
        let rest = path.strip_suffix('/').unwrap_or(path).strip_prefix("/v2")?;
        let mut parts = rest.split('/');
        // `/v2` leaves nothing, `/v2/...` an empty first part; `/v2x` is another path.
        if !parts.next().is_some_and(str::is_empty) {
            return None;
        }
        let parts: Vec<_> = parts.take(6).collect();
        let call = match *parts.as_slice() {
            [] => Self::ServerMetadata,
            ["health", "live"] => Self::ServerLive,
            ["health", "ready"] => Self::ServerReady,
            ["models", "stats"] => Self::AllStatistics,
            ["models", name] => Self::ModelMetadata(Model { name, version: None }),
            ["models", name, "ready"] => Self::ModelReady(Model { name, version: None }),
            ["models", name, "infer"] => Self::Infer(Model { name, version: None }),
            ["models", name, "stats"] => Self::Statistics(Model { name, version: None }),
            ["models", name, "config"] => Self::Configuration(Model { name, version: None }),
            ["models", name, "versions", version] => {
                Self::ModelMetadata(Model { name, version: Some(version) })
            }
            ["models", name, "versions", version, "ready"] => {
                Self::ModelReady(Model { name, version: Some(version) })
            }
            ["models", name, "versions", version, "infer"] => {
                Self::Infer(Model { name, version: Some(version) })
            }
            ["models", name, "versions", version, "stats"] => {
                Self::Statistics(Model { name, version: Some(version) })
            }
            ["models", name, "versions", version, "config"] => {
                Self::Configuration(Model { name, version: Some(version) })
            }
            ["repository", "index"] => Self::RepositoryIndex,
            ["repository", "models", name, "load" | "unload"] => Self::LoadOrUnload(name),
            _ => return None,
        };
        Some(call)
    }

    /// The methods that the call takes, as in an Allow header.
    pub fn allow(&self) -> &'static str {
        match self {
            Self::Infer(_) | Self::RepositoryIndex | Self::LoadOrUnload(_) => "POST",
            _ => "GET, HEAD",
        }
    }

    /// True when `method` is one of those.
    pub fn takes(&self, method: &http::Method) -> bool {
        self.allow().split(", ").any(|name| method.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read() {
        let model = |version| Model { name: "digits", version };
        let cases = [
            ("/v2", Some(Call::ServerMetadata)),
            ("/v2/", Some(Call::ServerMetadata)),
            ("/v2/health/live", Some(Call::ServerLive)),
            ("/v2/health/ready", Some(Call::ServerReady)),
            ("/v2/models/digits", Some(Call::ModelMetadata(model(None)))),
            ("/v2/models/digits/ready", Some(Call::ModelReady(model(None)))),
            ("/v2/models/digits/infer", Some(Call::Infer(model(None)))),
            ("/v2/models/digits/versions/7", Some(Call::ModelMetadata(model(Some("7"))))),
            ("/v2/models/digits/versions/7/ready", Some(Call::ModelReady(model(Some("7"))))),
            ("/v2/models/digits/versions/7/infer", Some(Call::Infer(model(Some("7"))))),
            ("/v2/models/stats", Some(Call::AllStatistics)),
            ("/v2/models/digits/stats", Some(Call::Statistics(model(None)))),
            ("/v2/models/digits/versions/7/stats", Some(Call::Statistics(model(Some("7"))))),
            ("/v2/models/digits/config", Some(Call::Configuration(model(None)))),
            ("/v2/models/digits/versions/7/config", Some(Call::Configuration(model(Some("7"))))),
            ("/v2/repository/index", Some(Call::RepositoryIndex)),
            ("/v2/repository/models/digits/load", Some(Call::LoadOrUnload("digits"))),
            ("/v2/repository/models/digits/unload", Some(Call::LoadOrUnload("digits"))),
            ("/v2/repository/models/digits", None),
            ("", None),
            ("/", None),
            ("/v2x", None),
            ("/v1/models/digits", None),
            ("/v2/models", None),
            ("/v2/models/digits/explain", None),
            ("/v2/models/digits/versions/7/infer/x", None),
        ];
        for (path, call) in cases {
            assert_eq!(Call::parse(path), call, "{path}");
        }
    }

    #[test]
    fn methods_are_exact() {
        let infer = Call::Infer(Model { name: "m", version: None });
        assert!(infer.takes(&http::Method::POST) && !infer.takes(&http::Method::GET));
        assert!(Call::RepositoryIndex.takes(&http::Method::POST));
        assert!(!Call::AllStatistics.takes(&http::Method::POST));
        assert!(Call::ServerLive.takes(&http::Method::HEAD) && !Call::ServerLive.takes(&http::Method::POST));
    }
}
