//! Text as keys and prefixes, checked once, as everywhere.

use kv_core::{Error, Key, Operation, Result};

/// The key that was meant, or the refusal, naming the operation.
pub(crate) fn to_key<K: TryInto<Key, Error: Into<Error>>>(key: K, operation: Operation) -> Result<Key> {
    key.try_into().map_err(|error| error.into().with_operation(operation))
}
