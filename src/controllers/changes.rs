//! ModelDeployments that must be looked at because something changed that their own watches do not show.

use std::sync::Arc;

use futures::{Stream, stream};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::ObjectRef;
use stoker_api::ModelDeployment;
use tokio::sync::mpsc;

/// The name by which the controller knows a ModelDeployment.
pub type Name = ObjectRef<DeserializeGuard<ModelDeployment>>;

/// Names, from who sees a change to the controller.
pub struct Changes {
    sender: mpsc::UnboundedSender<Name>,
    /// Taken by [`Changes::heard`] and given back when the controller ends.
    receiver: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Name>>>,
}

impl Default for Changes {
    fn default() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { sender, receiver: Arc::new(tokio::sync::Mutex::new(receiver)) }
    }
}

impl Changes {
    /// Asks for a look.
    pub fn say(&self, name: Name) {
        // A closed channel means that the process ends.
        let _ = self.sender.send(name);
    }

    /// What was asked for.
    pub fn heard(&self) -> impl Stream<Item = Name> + Send + 'static + use<> {
        let receiver = Arc::clone(&self.receiver);
        stream::unfold(receiver, async |receiver| {
            let name = receiver.lock().await.recv().await?;
            Some((name, receiver))
        })
    }
}
