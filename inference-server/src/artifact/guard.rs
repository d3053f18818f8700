//! Looks up names and refuses those that lead where the configuration does not allow.
//!
//! The check is on the addresses that are then connected to: a name that is checked first and looked up again to connect can
//! answer differently the second time (DNS rebinding). Addresses that stand in a URL themselves are never looked up; see
//! `super::web`.

use std::fmt;
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use stoker_decide::address::Guard;

/// Most addresses of a name that are tried; a stranger's zone may hold any number.
const MOST: usize = 16;

/// Addresses that are being looked up.
pub type Looking = Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>>;

/// Looks up names.
pub trait Lookup: fmt::Debug + Send + Sync + 'static {
    /// The addresses of `host`.
    fn lookup(&self, host: &str) -> Looking;
}

/// The operating system's way: /etc/hosts, DNS with its search domains.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Lookup for System {
    fn lookup(&self, host: &str) -> Looking {
        let host = host.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// What the HTTP client looks names up with.
#[derive(Debug)]
pub(super) struct GuardedResolver {
    pub(super) guard: Guard,
    pub(super) lookup: Arc<dyn Lookup>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, looking) = (self.guard.clone(), self.lookup.lookup(name.as_str()));
        Box::pin(async move {
            let mut addresses = looking.await?;
            // One that is forbidden refuses all: a name that is here and there is no accident.
            for address in &addresses {
                guard.check(*address)?;
            }
            if addresses.is_empty() {
                return Err(Error::new(ErrorKind::NotFound, "the name has no address").into());
            }
            addresses.truncate(MOST);
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(addresses)
        })
    }
}
