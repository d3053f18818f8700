//! A listener in this process, and clients that behave, or do not.

#[cfg(test)]
mod drain;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod server;
