//! The subjects that go through a backend's own client and nothing of ours.

pub(crate) mod consul;
pub(crate) mod etcd;
pub(crate) mod mem;
pub(crate) mod sled;
pub(crate) mod zk;
