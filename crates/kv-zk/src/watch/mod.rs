//! watch: the stream a consumer reads, what waits for it, and the hub that watches nodes.

pub(crate) mod feed;
pub(crate) mod hub;
mod node;
mod reads;
pub(crate) mod stream;
