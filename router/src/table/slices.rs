//! EndpointSlices: the pods of a revision, as the cluster lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use stoker_api::names::{objects, ports};

use crate::live::{Address, Addresses};

/// The label that names the Service of a slice.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// What the router reads from a slice: the pods of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// The Service, and so the revision.
    pub service: String,
    /// Its pods in this slice.
    pub addresses: Addresses,
}

impl Slice {
    /// Reads a slice; `None` when it has nothing that a router could connect to.
    pub fn read(slice: &EndpointSlice) -> Option<Self> {
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?.clone();
        let ports = slice.ports.as_deref().unwrap_or_default();
        // Other routers are called on their admin port.
        let wanted = if service == objects::ROUTER { ports::ADMIN_NAME } else { ports::DATA_NAME };
        let named = ports.iter().find(|port| port.name.as_deref() == Some(wanted));
        let port = u16::try_from(named.or(ports.first())?.port?).ok()?;
        let mut addresses = Addresses::default();
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            // What is not said counts as ready and not terminating, as the API has it.
            let serving = conditions.serving.or(conditions.ready).unwrap_or(true);
            let list = match (serving, conditions.terminating.unwrap_or(false)) {
                (true, false) => &mut addresses.ready,
                (true, true) => &mut addresses.leaving,
                (false, _) => continue,
            };
            let pod = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()).unwrap_or_default();
            // All addresses of an endpoint are the same pod, and the API means the first.
            let address = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok());
            if let Some(ip) = address {
                list.push(Address { socket: SocketAddr::new(ip, port), pod });
            }
        }
        Some(Self { service, addresses })
    }
}

/// The pods of all Services. A pod that is listed twice (IPv4 and IPv6, or two slices while it moves) counts once, under
/// its lower address; one that is listed as terminating anywhere is terminating.
pub fn join<'a>(slices: impl IntoIterator<Item = &'a Slice>) -> BTreeMap<String, Addresses> {
    let mut services: BTreeMap<String, Addresses> = BTreeMap::new();
    for slice in slices {
        let all = services.entry(slice.service.clone()).or_default();
        all.ready.extend(slice.addresses.ready.iter().cloned());
        all.leaving.extend(slice.addresses.leaving.iter().cloned());
    }
    for all in services.values_mut() {
        let mut seen = BTreeSet::new();
        for list in [&mut all.leaving, &mut all.ready] {
            list.sort();
            list.retain(|address| {
                let key =
                    if address.pod.is_empty() { address.socket.to_string() } else { address.pod.clone() };
                seen.insert(key)
            });
        }
    }
    services
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(endpoints: &serde_json::Value) -> Slice {
        let slice = json!({
            "metadata": {"name": "digits-1-x", "labels": {"kubernetes.io/service-name": "digits-1"}},
            "addressType": "IPv4",
            "ports": [{"name": "metrics", "port": 9090}, {"name": "http", "port": 8080}],
            "endpoints": endpoints,
        });
        Slice::read(&serde_json::from_value(slice).unwrap()).unwrap()
    }

    #[test]
    fn conditions_decide_who_is_ready() {
        let slice = slice(&json!([
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": false, "terminating": false}},
            {"addresses": ["10.0.0.4"], "conditions": {"ready": false, "serving": false, "terminating": true}},
            {"addresses": ["10.0.0.5"]},
            {"addresses": ["not an address"]},
        ]));
        let sockets = |list: &[Address]| list.iter().map(|a| a.socket.to_string()).collect::<Vec<_>>();
        assert_eq!(slice.service, "digits-1");
        assert_eq!(sockets(&slice.addresses.ready), ["10.0.0.1:8080", "10.0.0.5:8080"]);
        assert_eq!(sockets(&slice.addresses.leaving), ["10.0.0.2:8080"]);
    }

    #[test]
    fn routers_are_reached_at_their_admin_port() {
        let routers = json!({
            "metadata": {"name": "stoker-router-x", "labels": {"kubernetes.io/service-name": "stoker-router"}},
            "addressType": "IPv4", "ports": [{"name": "metrics", "port": 9090}, {"name": "admin", "port": 9443}],
            "endpoints": [{"addresses": ["10.0.0.7"]}],
        });
        let slice = Slice::read(&serde_json::from_value(routers).unwrap()).unwrap();
        assert_eq!(slice.addresses.ready[0].socket, "10.0.0.7:9443".parse().unwrap());
    }

    #[test]
    fn a_pod_counts_once_and_terminating_wins() {
        let pod = |ip: &str, terminating: bool| {
            json!([{"addresses": [ip], "targetRef": {"uid": "p"},
                "conditions": {"serving": true, "terminating": terminating}}])
        };
        let both = [slice(&pod("10.0.0.1", false)), slice(&pod("10.0.0.9", false))];
        assert_eq!(join(&both)["digits-1"].ready.len(), 1);
        let mixed = [slice(&pod("10.0.0.1", false)), slice(&pod("10.0.0.1", true))];
        let joined = &join(&mixed)["digits-1"];
        assert_eq!((joined.ready.len(), joined.leaving.len()), (0, 1));
    }

    #[test]
    fn slices_without_a_service_or_a_port_are_left_out() {
        let bare = json!({"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": [], "ports": [{"port": 1}]});
        assert_eq!(Slice::read(&serde_json::from_value(bare).unwrap()), None);
        let portless = json!({"metadata": {"name": "x", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4", "endpoints": []});
        assert_eq!(Slice::read(&serde_json::from_value(portless).unwrap()), None);
    }
}
