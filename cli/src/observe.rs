//! Looks at all that a picture is made of. The ModelDeployment must be there; what else may not be read is left out, and said.

use jiff::Timestamp;

use crate::cluster::Cluster;
use crate::picture::{Look, written};
use crate::trouble::Trouble;

/// Looks at a ModelDeployment with its table, Deployments and pods.
pub async fn look(cluster: &Cluster, name: &str) -> Result<Look, Trouble> {
    let (object, route, workloads, pods) =
        futures::join!(cluster.get(name), cluster.route(name), cluster.workloads(name), cluster.pods(name));
    let object = written(&object?);
    let mut notes = Vec::new();
    let route = or_note(route, "the weights that routers serve", &mut notes)?.flatten();
    let workloads = or_note(workloads, "how many pods are ready", &mut notes)?.unwrap_or_default();
    let pods = or_note(pods, "pods", &mut notes)?.unwrap_or_default();
    Ok(Look { object, route, workloads, pods, notes, now: Timestamp::now() })
}

/// Looks at the ModelDeployment alone: enough for a status.
pub async fn glance(cluster: &Cluster, name: &str) -> Result<Look, Trouble> {
    let object = written(&cluster.get(name).await?);
    Ok(Look { object, now: Timestamp::now(), ..Look::default() })
}

/// What may not be read is a note; that the API server does not answer stays an error.
fn or_note<T>(answer: Result<T, Trouble>, what: &str, notes: &mut Vec<String>) -> Result<Option<T>, Trouble> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(
            trouble @ (Trouble::Forbidden { .. } | Trouble::NotInstalled { .. } | Trouble::Unreadable { .. }),
        ) => {
            notes.push(format!("{what}: {trouble}"));
            Ok(None)
        }
        Err(trouble) => Err(trouble),
    }
}
