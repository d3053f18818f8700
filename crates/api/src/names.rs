//! Strings that are API: a change here breaks users' selectors, alerts and scripts.

/// Field manager of server-side apply, one for each concern.
pub mod managers {
    /// Deployments, Services and the other children of a ModelDeployment.
    pub const CHILDREN: &str = "stoker/children";
    /// `ModelRoute.spec`.
    pub const ROUTE: &str = "stoker/route";
    /// `status` of the custom resources.
    pub const STATUS: &str = "stoker/status";
    /// The data plane of a namespace.
    pub const ROUTER: &str = "stoker/router";
    /// Routes from a gateway to a model.
    pub const GATEWAY: &str = "stoker/gateway";
}

/// Labels on the objects that the operator makes.
pub mod labels {
    /// Which part of Stoker an object is: see [`crate::names::parts`].
    pub const PART: &str = "stoker.dev/part";
    /// The ModelDeployment that an object belongs to.
    pub const DEPLOYMENT: &str = "stoker.dev/model-deployment";
    /// The revision that an object belongs to.
    pub const REVISION: &str = "stoker.dev/revision";
    /// The ModelDeployment that a metric or an alert is about, as its label. Prometheus takes no dots.
    pub const IN_METRICS: &str = "model_deployment";
    /// Who manages the object, as Kubernetes recommends.
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// The value of [`MANAGED_BY`].
    pub const STOKER: &str = "stoker";
}

/// Values of [`labels::PART`].
pub mod parts {
    /// The operator's own pods.
    pub const OPERATOR: &str = "operator";
    /// Router pods and their objects.
    pub const ROUTER: &str = "router";
    /// Pods that serve a model.
    pub const SERVER: &str = "server";
    /// The one-shot pod that resolves a digest.
    pub const RESOLVER: &str = "resolver";
}

/// Annotations.
pub mod annotations {
    /// An action: `<verb>[/<revision>] <nonce>`; the nonce makes two equal requests differ.
    pub const REQUEST: &str = "stoker.dev/request";
    /// Who asks, for the Event and the history.
    pub const REQUESTED_BY: &str = "stoker.dev/requested-by";
    /// Why, where a reason is wanted (`approve`).
    pub const REASON: &str = "stoker.dev/reason";
    /// On children: a digest of all that the operator applied last. Where it differs, something was added or taken away.
    pub const APPLIED: &str = "stoker.dev/applied";
}

/// Condition types of a ModelDeployment.
pub mod conditions {
    /// Stable has its ready pods and traffic reaches them.
    pub const READY: &str = "Ready";
    /// A run is under way.
    pub const PROGRESSING: &str = "Progressing";
    /// The verdict on the candidate is Pass.
    pub const ANALYSIS_PASSING: &str = "AnalysisPassing";
    /// All routers serve the table that was written last.
    pub const TRAFFIC_VERIFIED: &str = "TrafficVerified";
    /// The revision that the spec asks for was rolled back.
    pub const ROLLED_BACK: &str = "RolledBack";
    /// The number of pods follows the demand.
    pub const SCALING_ACTIVE: &str = "ScalingActive";
    /// The operator is on its way to what the spec wants; absent otherwise. What kstatus reads, and so Flux.
    pub const RECONCILING: &str = "Reconciling";
    /// Without a person it comes no nearer to what the spec wants; absent otherwise. What kstatus reads, and so Flux.
    pub const STALLED: &str = "Stalled";
    /// Clients of the gateway that the spec names reach the model. Ready says nothing of them.
    pub const GATEWAY_READY: &str = "GatewayReady";
}

/// What follows a model's name at the address of its preview.
pub const PREVIEW_SUFFIX: &str = "-preview";

/// Reasons of conditions and Events. One word each, closed list.
pub mod reasons {
    /// A new revision was seen.
    pub const REVISION_CREATED: &str = "RevisionCreated";
    /// The digest of an artifact is known.
    pub const DIGEST_RESOLVED: &str = "DigestResolved";
    /// A run started.
    pub const RUN_STARTED: &str = "RunStarted";
    /// A step of the run began.
    pub const STEP_STARTED: &str = "StepStarted";
    /// The pods of stable were told to go, to make room for the candidate's.
    pub const STABLE_STOPPED: &str = "StableStopped";
    /// The run waits for something; the message names it.
    pub const HOLDING: &str = "Holding";
    /// The run goes on when a person says so, and not before.
    pub const AWAITS_PERSON: &str = "AwaitsPerson";
    /// Someone said that a step, or the promotion, may begin.
    pub const APPROVED: &str = "Approved";
    /// Someone asked a run to stand still.
    pub const PAUSED: &str = "Paused";
    /// Someone asked to skip the rest of a step, or all that remain.
    pub const PROMOTE_REQUESTED: &str = "PromoteRequested";
    /// The candidate became stable.
    pub const PROMOTED: &str = "Promoted";
    /// The candidate was taken out of traffic.
    pub const ROLLED_BACK: &str = "RolledBack";
    /// The candidate's pods do not get ready.
    pub const CANDIDATE_FAILED: &str = "CandidateFailed";
    /// Stable's pods are not ready, or no request gets to them.
    pub const STABLE_UNREADY: &str = "StableUnready";
    /// The time after a promotion is over without harm.
    pub const GUARD_PASSED: &str = "GuardPassed";
    /// Someone ended a pause.
    pub const RESUMED: &str = "Resumed";
    /// Someone took up the plan that the spec has now.
    pub const REPINNED: &str = "Repinned";
    /// Someone asked for an end of the run.
    pub const ABORTED: &str = "Aborted";
    /// A newer revision took the candidate's place.
    pub const SUPERSEDED: &str = "Superseded";
    /// The user returned to an earlier revision.
    pub const UNDONE: &str = "Undone";
    /// A rejected revision gets another run.
    pub const RETRIED: &str = "Retried";
    /// The annotation could not be understood or does not fit the state.
    pub const REQUEST_REFUSED: &str = "RequestRefused";
    /// An object of the same name belongs to somebody else.
    pub const CONFLICTED: &str = "Conflicted";
    /// The spec cannot be carried out.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// A revision has more or fewer pods from now on.
    pub const SCALED: &str = "Scaled";
    /// There are no pods any more, because there were no requests.
    pub const SCALED_TO_ZERO: &str = "ScaledToZero";
    /// A request came while there were no pods.
    pub const WOKEN: &str = "Woken";
    /// The number of pods stays as it is: signals are missing or contradict each other.
    pub const SCALING_HOLDS: &str = "ScalingHolds";
    /// Too few requests came to learn what a pod carries.
    pub const LEARNING: &str = "Learning";
    /// No number of pods keeps the latency target.
    pub const TARGET_UNREACHABLE: &str = "TargetUnreachable";
    /// Somebody else counts the pods.
    pub const EXTERNAL: &str = "External";
    /// Everything is as the spec wants it.
    pub const CONVERGED: &str = "Converged";
    /// The operator could not do its work; the message says what failed.
    pub const RECONCILE_FAILED: &str = "ReconcileFailed";
    /// All routers serve the last table.
    pub const VERIFIED: &str = "Verified";
    /// Some router does not serve the last table yet.
    pub const UNVERIFIED: &str = "Unverified";
    /// Verdict on the candidate.
    pub const PASS: &str = "Pass";
    /// Verdict on the candidate.
    pub const FAIL: &str = "Fail";
    /// Verdict on the candidate.
    pub const INCONCLUSIVE: &str = "Inconclusive";
    /// Verdict on the candidate.
    pub const ERROR: &str = "Error";
    /// There is no run.
    pub const NO_RUN: &str = "NoRun";
    /// The gateway serves the routes.
    pub const GATEWAY_PROGRAMMED: &str = "GatewayProgrammed";
    /// The gateway's controller has not said yet what it makes of the routes as they are.
    pub const GATEWAY_PENDING: &str = "GatewayPending";
    /// The cluster does not know the kinds of the Gateway API.
    pub const GATEWAY_API_MISSING: &str = "GatewayApiMissing";
    /// The gateway that the spec names does not exist.
    pub const GATEWAY_NOT_FOUND: &str = "GatewayNotFound";
    /// The gateway, or the listener that the spec names, is not served.
    pub const GATEWAY_NOT_PROGRAMMED: &str = "GatewayNotProgrammed";
    /// What the condition is made from cannot be read.
    pub const GATEWAY_UNREADABLE: &str = "GatewayUnreadable";
    /// The gateway does not take a route.
    pub const ROUTE_NOT_ACCEPTED: &str = "RouteNotAccepted";
    /// The gateway cannot use what a route points to.
    pub const ROUTE_NOT_RESOLVED: &str = "RouteNotResolved";
    /// A route could not be written or removed.
    pub const ROUTE_REFUSED: &str = "RouteRefused";
    /// The spec names no gateway any more, and routes are being removed.
    pub const ROUTE_LEAVING: &str = "RouteLeaving";
    /// A route was changed by another hand, and is put back.
    pub const ROUTE_RESTORED: &str = "RouteRestored";
}

/// Headers of the data plane. The router owns the prefix `stoker-`: it strips it from clients and from pods.
pub mod headers {
    /// The prefix that the router owns.
    pub const PREFIX: &str = "stoker-";
    /// In a request: the ModelDeployment, where Host does not name it.
    pub const MODEL: &str = "stoker-model";
    /// In an answer: the revision that gave it.
    pub const REVISION: &str = "stoker-revision";
    /// In a request to a pod: a copy, whose answer reaches nobody.
    pub const SHADOW: &str = "stoker-shadow";
    /// In a request to a pod: `bypass` has the model run, whatever the pod's cache holds, and nothing is kept. In a pod's
    /// answer: what its cache did.
    pub const CACHE: &str = "stoker-cache";
}

/// Ports of the parts.
pub mod ports {
    /// Clients' traffic, on routers and on the Service of a ModelDeployment's pods.
    pub const ROUTER_DATA: u16 = 8080;
    /// Health, readiness and Prometheus metrics of any part; plain, read only.
    pub const METRICS: u16 = 9090;
    /// The router's admin port; mutual TLS.
    pub const ROUTER_ADMIN: u16 = 9443;
    /// The Open Inference Protocol of a model pod.
    pub const SERVER_DATA: u16 = 8080;
    /// What clients of the Service `<md>` connect to.
    pub const SERVICE: u16 = 80;
    /// The same with gRPC, for a gateway: the port of gRPC in other servers of the protocol.
    pub const SERVICE_GRPC: u16 = 8001;
    /// Name of that port.
    pub const GRPC_NAME: &str = "grpc";
    /// Name of the data port in Services and EndpointSlices.
    pub const DATA_NAME: &str = "http";
    /// Name of the router's admin port in Services and EndpointSlices.
    pub const ADMIN_NAME: &str = "admin";
}

/// Names of objects in a namespace that has ModelDeployments.
pub mod objects {
    /// The namespace's routers: ModelRouter, Deployment, Service, ServiceAccount, RoleBinding, PodDisruptionBudget.
    pub const ROUTER: &str = "stoker-router";
    /// The routers' certificate and the CA that signs the operator's.
    pub const ROUTER_TLS: &str = "stoker-router-tls";
    /// The ClusterRole that routers bind by RoleBinding.
    pub const ROUTER_CLUSTER_ROLE: &str = "stoker-router";
    /// A ConfigMap of the operator's namespace with switches for all ModelDeployments.
    pub const FLEET: &str = "stoker-fleet";
    /// Its key that stops all advancing, with the reason as value.
    pub const FREEZE: &str = "freeze";
    /// The operator's CA, in the operator's namespace.
    pub const CA: &str = "stoker-ca";
    /// The name in the operator's client certificate. Who has it may scrape a router.
    pub const OPERATOR_IDENTITY: &str = "operator.stoker.dev";
    /// The name in every router's certificate.
    pub const ROUTER_IDENTITY: &str = "router.stoker.dev";
}

/// The name that the routers of `namespace` prove to each other and to the operator, and that no router of another
/// namespace has.
pub fn router_identity(namespace: &str) -> String {
    format!("{}.{namespace}.svc", objects::ROUTER)
}
