//! Keys, prefixes and versions within values of one's own: with serde, as text and as numbers.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::key::{Key, Prefix};
use crate::version::{FencingToken, Version};

/// Written as text. Read through the same checks as any text that is given as a key.
macro_rules! as_text {
    ($($name:ident)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(from)?;
                Self::new(&text).map_err(|error| de::Error::custom(error.kind()))
            }
        }
    )*};
}

as_text!(Key Prefix);

/// Written as a number.
macro_rules! as_number {
    ($($name:ident)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_u64(self.get())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                u64::deserialize(from).map(Self::new)
            }
        }
    )*};
}

as_number!(Version FencingToken);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_round_trip_and_are_checked() {
        let written = (Key::new("a/b").unwrap(), Prefix::root(), Version::new(7), FencingToken::new(8));
        let json = serde_json::to_string(&written).unwrap();
        assert_eq!(json, r#"["a/b","",7,8]"#);
        assert_eq!(serde_json::from_str::<(Key, Prefix, Version, FencingToken)>(&json).unwrap(), written);
        assert_eq!(serde_json::from_str::<Key>(r#""/a//b/""#).unwrap().as_str(), "a/b");
        let error = serde_json::from_str::<Key>(r#""a/../b""#).unwrap_err().to_string();
        assert!(error.contains("invalid key"), "{error}");
    }
}
