//! What operators ask for: the past of the store, the members, their disks, and users.

mod access;
mod cluster;
mod history;
mod storage;
