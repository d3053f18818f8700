//! Writing child objects (client required). The only place that does.
//!
//! An object is created where there is none. One that is there is changed only when its ownerReference carries our uid, and
//! only when it differs: a converged object is not written again.

mod compare;

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use stoker_api::artifact::Digest;
use stoker_api::names::annotations;

use crate::call::{CallError, Calls};
use compare::covers;

/// Why an object could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no, or nothing.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The name is taken.
    #[error("{kind} {name} exists and is not ours ({owner}); delete it or choose another name")]
    Conflicted {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// Whose it is.
        owner: String,
    },
    /// An object that cannot be written as JSON: a bug.
    #[error("{0} cannot be serialised: {1}")]
    Serialise(String, serde_json::Error),
}

impl Error {
    /// The word for conditions, Events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Conflicted { .. } => stoker_api::names::reasons::CONFLICTED,
            Self::Call(_) | Self::Serialise(..) => stoker_api::names::reasons::RECONCILE_FAILED,
        }
    }
}

/// Writes the children of one owner.
#[derive(Clone)]
pub struct Applier {
    /// To the API server.
    pub client: Client,
    /// Deadlines and counters.
    pub calls: Calls,
    /// Field manager: one for each concern.
    pub manager: &'static str,
    /// Namespace of the owner and of its children.
    pub namespace: String,
    /// Goes into every child; what carries another uid is not ours.
    pub owner: OwnerReference,
}

/// A namespaced kind of object that can be written. Saves repeating its bounds.
pub trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
{
}

impl<K> Child for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
{
}

impl Applier {
    /// Makes `desired` so, and returns the object as it is then. `call` names verb and kind for the metrics.
    ///
    /// We own all fields that are set, so the last word on them is ours.
    pub async fn ensure<K: Child>(&self, call: &'static str, desired: K) -> Result<K, Error> {
        self.apply(call, desired, true).await
    }

    /// As [`Applier::ensure`], for an object that the caller saw differ: it is written even where all fields that we set are as we
    /// want them, since a list that somebody added to is ours as a whole.
    pub async fn restore<K: Child>(&self, call: &'static str, desired: K) -> Result<K, Error> {
        self.apply(call, desired, false).await
    }

    /// Whether this is what we applied last, whatever others have made of it since.
    pub fn applied<K: Child>(&self, desired: &K, live: &K) -> bool {
        let wanted = body(&self.owned(desired.clone()), &desired.name_any()).ok();
        let wanted =
            wanted.as_ref().and_then(|body| body["metadata"]["annotations"][annotations::APPLIED].as_str());
        wanted.is_some() && live.annotations().get(annotations::APPLIED).map(String::as_str) == wanted
    }

    async fn apply<K: Child>(
        &self,
        call: &'static str,
        desired: K,
        only_if_it_differs: bool,
    ) -> Result<K, Error> {
        let (name, desired) = (desired.name_any(), self.owned(desired));
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let body = body(&desired, &name)?;
        let mut params = PatchParams::apply(self.manager);
        if let Some(live) = self.calls.make(call, &name, api.get_opt(&name)).await? {
            self.check_owner(&live, &name)?;
            if only_if_it_differs && covers(&to_value(&live, &name)?, &body) {
                return Ok(live);
            }
            params = params.force();
        }
        Ok(self.calls.make(call, &name, api.patch(&name, &params, &Patch::Apply(&body))).await?)
    }

    /// As [`Applier::ensure`], where the object was read a moment ago: one of ours that is as desired costs no call.
    pub async fn keep<K: Child>(
        &self,
        call: &'static str,
        desired: K,
        read: Option<&K>,
    ) -> Result<(), Error> {
        let name = desired.name_any();
        if let Some(read) = read.filter(|read| self.check_owner(*read, &name).is_ok())
            && covers(&to_value(read, &name)?, &body(&self.owned(desired.clone()), &name)?)
        {
            return Ok(());
        }
        // On the heap: it is the rare case, and every caller would carry its size.
        Box::pin(self.ensure(call, desired)).await.map(drop)
    }

    /// Makes `desired` out of `read`, the version that was decided from: the write is refused when the object has changed
    /// since, or has appeared. That is the fence against an operator that lost the lead and does not know it yet.
    pub async fn replace<K: Child>(
        &self,
        call: &'static str,
        desired: K,
        read: Option<&K>,
    ) -> Result<(), Error> {
        let (name, mut desired) = (desired.name_any(), self.owned(desired));
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = PostParams { field_manager: Some(self.manager.to_owned()), ..PostParams::default() };
        let Some(read) = read else {
            let made = self.calls.make(call, &name, api.create(&params, &desired)).await;
            if made.as_ref().is_err_and(CallError::is_already_exists)
                && let Some(live) = self.calls.make(call, &name, api.get_opt(&name)).await?
            {
                // Somebody else's, which the user must be told; or ours, which the next look sees.
                self.check_owner(&live, &name)?;
            }
            made?;
            return Ok(());
        };
        self.check_owner(read, &name)?;
        let (live, wanted) = (to_value(read, &name)?, to_value(&desired, &name)?);
        // The spec is ours alone, so what we want no more (the last host of a table) counts as a difference too.
        if live["spec"] == wanted["spec"] && covers(&live["metadata"], &wanted["metadata"]) {
            return Ok(());
        }
        desired.meta_mut().resource_version = read.resource_version();
        self.calls.make(call, &name, api.replace(&name, &params, &desired)).await?;
        Ok(())
    }

    /// Deletes an object that is ours, as it was read: one that has changed since is a conflict, and is looked at again. One
    /// that is not there, or not ours, is left alone.
    pub async fn remove<K: Child>(&self, call: &'static str, live: &K) -> Result<(), Error> {
        let name = live.name_any();
        if self.check_owner(live, &name).is_err() || live.meta().deletion_timestamp.is_some() {
            return Ok(());
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        // The uid keeps us from deleting a namesake that was made since; the version is the fence against an operator that
        // lost the lead and does not know it yet.
        let preconditions = Preconditions { uid: live.uid(), resource_version: live.resource_version() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        match self.calls.make(call, &name, api.delete(&name, &params)).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn check_owner<K: Resource<DynamicType = ()>>(&self, live: &K, name: &str) -> Result<(), Error> {
        let owners = live.meta().owner_references.as_deref().unwrap_or_default();
        if owners.iter().any(|owner| owner.uid == self.owner.uid) {
            return Ok(());
        }
        let owner = match owners.first() {
            Some(other) if other.name == self.owner.name && other.kind == self.owner.kind => {
                "it belongs to a deleted object of our name and goes soon".to_owned()
            }
            Some(other) => format!("it belongs to {} {}", other.kind, other.name),
            None => "it belongs to nobody".to_owned(),
        };
        Err(Error::Conflicted { kind: K::kind(&()).into_owned(), name: name.to_owned(), owner })
    }

    /// The object with its namespace and owner.
    fn owned<K: Child>(&self, mut object: K) -> K {
        object.meta_mut().namespace = Some(self.namespace.clone());
        object.meta_mut().owner_references = Some(vec![self.owner.clone()]);
        object
    }
}

/// The object as it is applied: with its kind, without status, and with a digest of all that.
///
/// The digest is how a field that is wanted no more is noticed: it is in the object still, and nothing that is wanted
/// contradicts it.
fn body<K: Child>(desired: &K, name: &str) -> Result<Value, Error> {
    let mut body = to_value(desired, name)?;
    body["apiVersion"] = Value::from(K::api_version(&()));
    body["kind"] = Value::from(K::kind(&()));
    if let Some(object) = body.as_object_mut() {
        object.remove("status");
    }
    let digest = Digest::of(body.to_string().as_bytes()).to_string();
    body["metadata"]["annotations"][annotations::APPLIED] = Value::from(digest);
    Ok(body)
}

fn to_value<K: Serialize>(object: &K, name: &str) -> Result<Value, Error> {
    serde_json::to_value(object).map_err(|error| Error::Serialise(name.to_owned(), error))
}

#[cfg(test)]
mod tests;
