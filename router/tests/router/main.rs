//! A router in this process, between clients and fake pods on loopback. Tables and pods are put into its keeper, as the
//! watches would do; there is no API server.

#[cfg(test)]
mod admin;
#[cfg(test)]
mod authority;
#[cfg(test)]
mod balance;
#[cfg(test)]
mod calls;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod cut;
#[cfg(test)]
mod elsewhere;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod framing;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod mirror;
#[cfg(test)]
mod preview;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod refill;
#[cfg(test)]
mod report;
#[cfg(test)]
mod start;
#[cfg(test)]
mod sticky;
#[cfg(test)]
mod traffic;
#[cfg(test)]
mod wake;
#[cfg(test)]
mod watch;
#[cfg(test)]
mod world;
