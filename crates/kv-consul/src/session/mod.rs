//! Sessions: the handle's own, those of keys with a time to live, and those of locks.

pub(crate) mod binding;
pub(crate) mod create;
mod entries;
mod handle;
pub(crate) mod holding;
pub(crate) mod renewed;
pub(crate) mod sessions;
