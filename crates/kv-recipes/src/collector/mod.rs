//! A collector: what changed since a snapshot, recorded in the background and replayed.

mod collected;
mod log;
mod run;

pub use collected::{Collected, Replayed};
pub use log::Recorded;
pub use run::{Collector, CollectorOptions};
