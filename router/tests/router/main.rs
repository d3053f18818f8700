//! A router in this process, between clients and fake pods on loopback. Tables and pods are put into its keeper, as the
//! watches would do; there is no API server.

#[cfg(test)]
mod admin;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod mirror;
#[cfg(test)]
mod start;
#[cfg(test)]
mod sticky;
#[cfg(test)]
mod traffic;
#[cfg(test)]
mod watch;
#[cfg(test)]
mod world;
