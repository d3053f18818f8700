//! From a picture to text. Pure: no terminal is asked; width and colours are arguments.

mod done;
mod explain;
mod findings;
mod history;
mod list;
mod status;
mod text;
mod tree;

pub use done::done;
pub use explain::explain;
pub use findings::findings;
pub use history::history;
pub use list::list;
pub use status::status;
pub use text::{Ink, Line, Page, Paper, paint};
pub use tree::tree;

#[cfg(test)]
mod tests;
