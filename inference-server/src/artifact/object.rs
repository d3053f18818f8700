//! Downloads from object stores: `object_store` writes and signs the requests, and our guarded client sends them.
//!
//! What a store writes into an answer that is no artifact is not read: it may be endless, and its errors repeat what was asked,
//! signatures included. What happened is told by what our client saw.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http_body_util::BodyExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::path::Path as Key;
use object_store::{ClientOptions, GetOptions, GetRange, ObjectStore, RetryConfig, StaticCredentialProvider};
use reqwest::{Request, StatusCode, Url};

use super::download::{Body, Part, Resume};
use super::error::{Trouble, Why};
use super::web::{self, Web};
use super::{AzureKey, Credentials, Object, S3Keys, Service};

/// An object in a store.
pub(super) struct Source {
    store: Box<dyn ObjectStore>,
    key: Key,
    seen: Arc<Seen>,
}

impl Source {
    /// An object that `web` asks for.
    pub(super) fn new(object: &Object, credentials: Option<&Credentials>, web: Web) -> Result<Self, Why> {
        let seen = Arc::new(Seen::default());
        let client = Client { web, seen: Arc::clone(&seen) };
        let store = store(object, credentials, client)?;
        Ok(Self { store, key: object.key.clone(), seen })
    }

    /// Asks for the object, or for the rest of it.
    pub(super) async fn open(&self, resume: Option<Resume<'_>>) -> Result<Part, Trouble> {
        let mut options = GetOptions::default();
        if let Some(Resume { from, etag }) = resume {
            options.range = Some(GetRange::Offset(from));
            options.if_match = Some(etag.to_owned());
        }
        self.seen.take();
        match self.store.get_opts(&self.key, options).await {
            Ok(found) => {
                let (from, total, etag) = (found.range.start, found.meta.size, found.meta.e_tag.clone());
                let body = Body::Object(found.into_stream(), Arc::clone(&self.seen));
                Ok(Part { from, total: Some(total), etag, body })
            }
            Err(_) => Err(match self.seen.take() {
                Some(Sight::Trouble(trouble)) => trouble,
                // Also an answer of the whole where a part was asked for.
                Some(Sight::Status(status))
                    if resume.is_some()
                        && (status.is_success()
                            || status == StatusCode::PRECONDITION_FAILED
                            || status == StatusCode::RANGE_NOT_SATISFIABLE) =>
                {
                    Trouble::Changed
                }
                Some(Sight::Status(status)) if status.is_success() => {
                    Trouble::lasting("its answer lacks the length or the version of the object")
                }
                Some(Sight::Status(status)) => Trouble::of_status(status),
                None => Trouble::ForGood(Why::Keys("no request can be made with the credentials")),
            }),
        }
    }
}

/// A store with its credentials. It does not try again: we do, and count.
fn store(
    object: &Object,
    credentials: Option<&Credentials>,
    client: Client,
) -> Result<Box<dyn ObjectStore>, Why> {
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    // Errors of the builders quote what they could not read, which are secrets.
    match &object.service {
        Service::S3 => {
            let keys = match credentials {
                Some(Credentials::S3(keys)) => (**keys).clone(),
                _ => S3Keys::default(),
            };
            let mut builder = AmazonS3Builder::new()
                .with_http_connector(client)
                .with_retry(retry)
                .with_bucket_name(&object.bucket)
                .with_region(keys.region.as_deref().unwrap_or("us-east-1"))
                .with_skip_signature(keys.key.is_none());
            if let Some((id, secret)) = keys.key {
                builder = builder.with_access_key_id(id).with_secret_access_key(secret);
            }
            if let Some(token) = keys.session_token {
                builder = builder.with_token(token);
            }
            if let Some(endpoint) = keys.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            let store = builder.build();
            store
                .map(|store| Box::new(store) as Box<dyn ObjectStore>)
                .map_err(|_| Why::Keys("its region or endpoint cannot be used"))
        }
        Service::Google => {
            let builder = GoogleCloudStorageBuilder::new()
                .with_http_connector(client)
                .with_retry(retry)
                .with_bucket_name(&object.bucket);
            let builder = match credentials {
                Some(Credentials::Google(account)) => builder.with_service_account_key(account),
                // Without these it would look for a key in the home folder, and then ask the machine's metadata service.
                _ => builder.with_skip_signature(true).with_credentials(Arc::new(
                    StaticCredentialProvider::new(GcpCredential { bearer: String::new() }),
                )),
            };
            let store = builder.build();
            store
                .map(|store| Box::new(store) as Box<dyn ObjectStore>)
                .map_err(|_| Why::Keys("`serviceAccount` is not the JSON of a service account's key"))
        }
        Service::Azure { account } => {
            let mut builder = MicrosoftAzureBuilder::new()
                .with_http_connector(client)
                .with_retry(retry)
                .with_account(account)
                .with_container_name(&object.bucket);
            let (key, endpoint) = match credentials {
                Some(Credentials::Azure { key, endpoint }) => (key.as_ref(), endpoint.clone()),
                _ => (None, None),
            };
            builder = match key {
                Some(AzureKey::Account(key)) => builder.with_access_key(key),
                Some(AzureKey::Sas(sas)) => {
                    let pairs = object_store::azure::split_sas(sas);
                    builder.with_sas_authorization(pairs.map_err(|_| {
                        Why::Keys("`sasToken` is not a query string such as `sv=...&sig=...`")
                    })?)
                }
                None => builder.with_skip_signature(true),
            };
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            let store = builder.build();
            store
                .map(|store| Box::new(store) as Box<dyn ObjectStore>)
                .map_err(|_| Why::Keys("`accountKey` is not a key in base64"))
        }
    }
}

/// What our client saw last.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Option<Sight>>);

#[derive(Debug)]
enum Sight {
    Status(StatusCode),
    Trouble(Trouble),
}

impl Seen {
    fn put(&self, sight: Sight) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sight);
    }

    fn take(&self) -> Option<Sight> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The next bytes of an object.
pub(super) async fn chunk(
    stream: &mut BoxStream<'static, object_store::Result<Bytes>>,
    seen: &Seen,
) -> Result<Option<Bytes>, Trouble> {
    match stream.next().await.transpose() {
        Ok(chunk) => Ok(chunk),
        Err(_) => Err(match seen.take() {
            Some(Sight::Trouble(trouble)) => trouble,
            _ => Trouble::passing("its answer broke off"),
        }),
    }
}

/// The guarded client, as object stores use it.
#[derive(Clone, Debug)]
struct Client {
    web: Web,
    seen: Arc<Seen>,
}

/// Stands for an error that [`Seen`] holds.
#[derive(Debug, thiserror::Error)]
#[error("the request failed")]
struct Failed;

fn failed() -> HttpError {
    // Of a kind that is not tried again there.
    HttpError::new(HttpErrorKind::Unknown, Failed)
}

impl Client {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        let url = Url::parse(&head.uri.to_string()).map_err(|_| failed())?;
        let mut request = Request::new(head.method, url);
        *request.headers_mut() = head.headers;
        *request.body_mut() =
            body.as_bytes().filter(|bytes| !bytes.is_empty()).map(|bytes| bytes.clone().into());
        let answer = match self.web.send(request).await {
            Ok(answer) => answer,
            Err(trouble) => {
                self.seen.put(Sight::Trouble(trouble));
                return Err(failed());
            }
        };
        self.seen.put(Sight::Status(answer.status()));
        let (head, body) = http::Response::<reqwest::Body>::from(answer).into_parts();
        let body = if head.status.is_success() {
            let seen = Arc::clone(&self.seen);
            HttpResponseBody::new(body.map_err(move |error| {
                seen.put(Sight::Trouble(web::trouble(&error.without_url())));
                failed()
            }))
        } else {
            HttpResponseBody::from(Vec::<u8>::new())
        };
        Ok(HttpResponse::from_parts(head, body))
    }
}

impl HttpService for Client {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.send(request))
    }
}

impl HttpConnector for Client {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}
