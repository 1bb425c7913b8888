//! Codecs: how values of a type are written as bytes and read back.

use bytes::Bytes;

/// What a codec fails with. Its text is shown to people: it must not repeat the value, which can be a
/// secret.
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

/// Values as JSON text, as `serde` describes them.
#[cfg(feature = "serde")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

#[cfg(feature = "serde")]
impl<T: serde::Serialize + ?Sized> Encode<T> for Json {
    fn encode(&self, value: &T) -> Result<Bytes, CodecError> {
        Ok(serde_json::to_vec(value).map_err(|error| reason(&error))?.into())
    }
}

#[cfg(feature = "serde")]
impl<T: serde::de::DeserializeOwned> Decode<T> for Json {
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes).map_err(|error| reason(&error).into())
    }
}

/// What serde says, without what it repeats of the value: "invalid type: string, expected u32 at line 1
/// column 9".
#[cfg(feature = "serde")]
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if !error.is_data() {
        return text;
    }
    let of_the_type = ["missing field `", "duplicate field `"];
    if of_the_type.iter().any(|begin| text.starts_with(begin)) {
        return text;
    }
    let quotes_the_value =
        ["invalid type: ", "invalid value: ", "invalid length ", "unknown field ", "unknown variant "];
    // What was expected stands last, and the type says it; what was found stands before it.
    match text
        .rsplit_once(", expected ")
        .filter(|_| quotes_the_value.iter().any(|begin| text.starts_with(begin)))
    {
        Some((found, expected)) => {
            let kind = found.split(['"', '`']).next().unwrap_or_default().trim_end();
            format!("{kind}, expected {expected}")
        }
        None => format!("it does not fit the type, at line {} column {}", error.line(), error.column()),
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Job {
        #[allow(dead_code, reason = "only decoded")]
        tries: u8,
    }

    #[test]
    fn a_reason_is_serdes_and_repeats_nothing_of_the_value() {
        for (text, reason) in [
            (r#"{"tries": "hunter2"}"#, "invalid type: string, expected u8 at line 1 column 19"),
            (r#"{"tries": "hunter2, expected u8"}"#, "invalid type: string, expected u8 at line 1 column 32"),
            (r#"{"tries": 4711}"#, "invalid value: integer, expected u8 at line 1 column 14"),
            (r#"{"hunter2": 1}"#, "unknown field, expected `tries` at line 1 column 10"),
            ("{}", "missing field `tries` at line 1 column 2"),
            (r#"{"tries": hunter2"#, "expected value at line 1 column 11"),
        ] {
            let error = Decode::<Job>::decode(&Json, text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), reason);
        }
    }

    #[test]
    fn what_a_type_says_itself_is_not_repeated() {
        #[derive(Debug)]
        struct Odd;
        impl<'de> serde::Deserialize<'de> for Odd {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                Err(serde::de::Error::custom(format!("not odd: {text}")))
            }
        }
        let error = Decode::<Odd>::decode(&Json, br#""hunter2""#).unwrap_err().to_string();
        assert!(error.starts_with("it does not fit the type") && !error.contains("hunter2"), "{error}");
    }
}
