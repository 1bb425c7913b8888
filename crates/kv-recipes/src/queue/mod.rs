//! A work queue: jobs are claimed for a time, acknowledged by who claimed them, and given to another if
//! that never comes.

mod dead;
mod job;
mod line;
mod record;
mod view;
mod wait;

pub use dead::DeadJob;
pub use job::Job;
pub use line::{Queue, QueueOptions};
