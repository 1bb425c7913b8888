//! Typed values: codecs, and the short forms that use them.

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Operation, Result};
use crate::ext::{StoreExt, to_key};
use crate::key::Key;
use crate::store::Store;
use crate::version::Version;

/// What a codec fails with.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;

/// A codec that writes values of a type as bytes.
pub trait Encode<T: ?Sized> {
    /// The bytes of a value.
    ///
    /// # Errors
    ///
    /// If the value cannot be written.
    fn encode(&self, value: &T) -> Result<Bytes, CodecError>;
}

/// A codec that reads values of a type from bytes.
pub trait Decode<T> {
    /// The value these bytes stand for.
    ///
    /// # Errors
    ///
    /// If they stand for none.
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError>;
}

/// A value with the version it was read at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Typed<T> {
    /// The value.
    pub value: T,
    /// Its version.
    pub version: Version,
}

/// Short forms for typed values, for every store. Not to be implemented by hand.
///
/// A value that cannot be encoded or decoded is `InvalidValue`; the error names the key and not the
/// value.
pub trait TypedExt: Store {
    /// The value under `key`, decoded.
    fn get_as<K, T, C>(&self, key: K, codec: C) -> impl Future<Output = Result<Option<Typed<T>>>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
        C: Decode<T> + Send,
    {
        async move {
            let key = to_key(key, Operation::Get)?;
            let Some(entry) = self.get(&key).await? else { return Ok(None) };
            let value = codec.decode(&entry.value).map_err(|error| not_coded(&key, Operation::Get, error))?;
            Ok(Some(Typed { value, version: entry.version }))
        }
    }

    /// Encodes `value` and puts it, permanent.
    fn put_as<K, T, C>(&self, key: K, value: &T, codec: C) -> impl Future<Output = Result<Version>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
        T: Sync + ?Sized,
        C: Encode<T> + Send,
    {
        async move {
            let key = to_key(key, Operation::Put)?;
            let bytes = codec.encode(value).map_err(|error| not_coded(&key, Operation::Put, error))?;
            self.put(&key, bytes).await
        }
    }

    /// The value under `key`, decoded from JSON.
    #[cfg(feature = "serde")]
    fn get_json<K, T>(&self, key: K) -> impl Future<Output = Result<Option<Typed<T>>>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
        T: serde::de::DeserializeOwned,
    {
        self.get_as(key, Json)
    }

    /// Puts `value` as JSON, permanent.
    #[cfg(feature = "serde")]
    fn put_json<K, T>(&self, key: K, value: &T) -> impl Future<Output = Result<Version>> + Send
    where
        K: TryInto<Key, Error: Into<Error>> + Send,
        T: serde::Serialize + Sync + ?Sized,
    {
        self.put_as(key, value, Json)
    }
}

impl<S: Store + ?Sized> TypedExt for S {}

/// Values as JSON text.
#[cfg(feature = "serde")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

#[cfg(feature = "serde")]
impl<T: serde::Serialize + ?Sized> Encode<T> for Json {
    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        Ok(serde_json::to_vec(value)?.into())
    }
}

#[cfg(feature = "serde")]
impl<T: serde::de::DeserializeOwned> Decode<T> for Json {
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

fn not_coded(key: &Key, operation: Operation, error: CodecError) -> Error {
    Error::new(ErrorKind::InvalidValue { reason: "the codec refused it".to_owned() })
        .with_operation(operation)
        .with_key(key.as_str())
        .with_source(error)
}
