#![doc = include_str!("../README.md")]

mod deadline;
mod hold;
mod namespace;
mod session;

pub use deadline::{Deadline, within};
pub use hold::HoldState;
pub use namespace::Namespace;
pub use session::SessionCell;
