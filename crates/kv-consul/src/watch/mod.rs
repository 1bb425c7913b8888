//! Watches: the stream a consumer reads, and the hub of few queries that serves them all.

pub(crate) mod event_queue;
mod feed;
mod hidden;
pub(crate) mod hub;
mod index_diff;
pub(crate) mod members;
mod query_limit;
pub(crate) mod stream;
