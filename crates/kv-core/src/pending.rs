//! Short names for what the methods of [`StoreExt`](crate::StoreExt) take and return.

use bytes::Bytes;

use crate::error::Result;

/// What a call returns: a future of `Result<T>` that can be sent to another thread. Not to be implemented
/// by hand.
#[must_use = "nothing happens until it is awaited"]
pub trait Pending<T>: Future<Output = Result<T>> + Send {}

impl<T, F: Future<Output = Result<T>> + Send> Pending<T> for F {}

/// What a call takes as a value: bytes, text, or anything else that is `Into<Bytes>`. Not to be implemented
/// by hand.
pub trait IntoValue: Into<Bytes> + Send {}

impl<V: Into<Bytes> + Send> IntoValue for V {}
