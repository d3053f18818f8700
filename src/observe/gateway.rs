//! The routes of a ModelDeployment and the gateway that they ask for (client required). Nothing that goes wrong here fails a
//! look: a rollout must go on, and go back, whatever becomes of a gateway.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use stoker_api::ModelDeployment;
use stoker_api::gateway::{GRPCRoute, Gateway, HTTPRoute};
use stoker_api::names::conditions;

use crate::call::CallError;
use crate::context::Context;

/// A look waits no longer for all of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// An object, or why there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Found<K> {
    /// It is there.
    There(Box<K>),
    /// It is not.
    #[default]
    Absent,
    /// The cluster does not know its kind.
    NoApi,
    /// It cannot be read.
    Unreadable(String),
}

impl<K> Found<K> {
    /// The object.
    pub fn there(&self) -> Option<&K> {
        match self {
            Self::There(object) => Some(object),
            Self::Absent | Self::NoApi | Self::Unreadable(_) => None,
        }
    }
}

/// What is in the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The HTTPRoute of our name, whoever made it.
    pub http: Found<HTTPRoute>,
    /// The GRPCRoute of our name, whoever made it.
    pub grpc: Found<GRPCRoute>,
    /// The gateway that the spec names.
    pub gateway: Found<Gateway>,
}

/// Looks. `None` where no gateway was ever asked for, which costs nothing.
pub async fn view(ctx: &Context, md: &ModelDeployment) -> Option<View> {
    let reference = md.spec.traffic.gateway_ref.as_ref();
    if reference.is_none() && !may_have_routes(md) {
        return None;
    }
    let (namespace, name) = (md.namespace().unwrap_or_default(), md.name_any());
    let looks = async {
        tokio::join!(
            find::<HTTPRoute>(ctx, "get HTTPRoute", &namespace, &name),
            find::<GRPCRoute>(ctx, "get GRPCRoute", &namespace, &name),
            async {
                match reference {
                    Some(gateway) => {
                        find::<Gateway>(ctx, "get Gateway", gateway.namespace(&namespace), &gateway.name)
                            .await
                    }
                    None => Found::Absent,
                }
            },
        )
    };
    let late = |_| {
        let why = || format!("no answer within {} s", PATIENCE.as_secs());
        (Found::Unreadable(why()), Found::Unreadable(why()), Found::Unreadable(why()))
    };
    let (http, grpc, gateway) = tokio::time::timeout(PATIENCE, looks).await.unwrap_or_else(late);
    Some(View { http, grpc, gateway })
}

/// Whether routes may be left of a gateway that the spec named before. Without a status nobody knows.
fn may_have_routes(md: &ModelDeployment) -> bool {
    md.status.as_ref().is_none_or(|status| {
        status.conditions.iter().any(|condition| condition.type_ == conditions::GATEWAY_READY)
    })
}

/// Reads one object.
pub async fn find<K>(ctx: &Context, call: &'static str, namespace: &str, name: &str) -> Found<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(ctx.client.clone(), namespace);
    match ctx.calls.make(call, name, api.get(name)).await {
        Ok(object) => Found::There(Box::new(object)),
        Err(error) => missing(&error),
    }
}

/// What an error means. An object that is not there has a reason; for a kind that is not there the API server answers in plain
/// text, which has a code and none.
fn missing<K>(error: &CallError) -> Found<K> {
    match error.answer() {
        Some(status) if status.code == 404 && status.reason == "NotFound" => Found::Absent,
        Some(status) if status.code == 404 => Found::NoApi,
        _ => Found::Unreadable(error.to_string()),
    }
}
