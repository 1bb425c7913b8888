//! Reading values: from the command line, a file or standard input, byte for byte.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use kv_core::{FencingToken, Version};

use crate::exit::Failure;

/// More than any store takes; what is larger is refused without being read to its end.
const MOST: u64 = 256 << 20;

/// How a value is written where it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Bytes,
    Hex,
    Base64,
}

impl Encoding {
    /// The encoding two flags choose; the command line has refused both at once.
    pub(crate) fn of(hex: bool, base64: bool) -> Self {
        match (hex, base64) {
            (true, _) => Self::Hex,
            (_, true) => Self::Base64,
            (false, false) => Self::Bytes,
        }
    }

    fn decode(self, bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let decoded = match self {
            Self::Bytes => return Ok(bytes),
            Self::Hex => HEXLOWER_PERMISSIVE.decode(&without_space(bytes)),
            Self::Base64 => BASE64.decode(&without_space(bytes)),
        };
        let name = if self == Self::Hex { "hex digits" } else { "base64" };
        decoded.map_err(|error| Failure::Usage(format!("the value is not {name}: {error}")))
    }

    /// The text of `bytes` in this encoding; bytes as they are have none.
    pub(crate) fn encode(self, bytes: &[u8]) -> Option<String> {
        match self {
            Self::Bytes => None,
            Self::Hex => Some(HEXLOWER_PERMISSIVE.encode(bytes)),
            Self::Base64 => Some(BASE64.encode(bytes)),
        }
    }
}

fn without_space(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.retain(|byte| !byte.is_ascii_whitespace());
    bytes
}

/// The value an argument stands for: `-` is standard input, `@FILE` a file, anything else itself.
pub(crate) fn value(argument: &str, raw: bool, encoding: Encoding) -> Result<Bytes, Failure> {
    let bytes = if raw {
        argument.as_bytes().to_vec()
    } else if argument == "-" {
        read(io::stdin().lock(), "standard input")?
    } else if let Some(path) = argument.strip_prefix('@') {
        let name = format!("{path:?}");
        let file = File::open(path).map_err(|error| Failure::io(format!("cannot read {name}"), error))?;
        read(file, &name)?
    } else {
        argument.as_bytes().to_vec()
    };
    encoding.decode(bytes).map(Bytes::from)
}

/// A whole document: of this file, or of standard input where that is `-`.
pub(crate) fn document(path: &Path) -> Result<Vec<u8>, Failure> {
    if path.as_os_str() == "-" {
        return read(io::stdin().lock(), "standard input");
    }
    let name = format!("{path:?}");
    let file = File::open(path).map_err(|error| Failure::io(format!("cannot read {name}"), error))?;
    read(file, &name)
}

fn read(source: impl Read, name: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    source
        .take(MOST + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io(format!("cannot read {name}"), error))?;
    if bytes.len() as u64 > MOST {
        return Err(Failure::Usage(format!(
            "{name} has more than {MOST} bytes; no store takes such a value"
        )));
    }
    Ok(bytes)
}

/// A time such as `5s` or `1m30s`, for the command line.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("not a time such as 5s or 1m30s: {error}"))
}

/// The same, above zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be more than zero".to_owned()),
        duration => Ok(duration),
    }
}

/// A number of things above zero.
pub(crate) fn count<N: TryFrom<u64>>(text: &str) -> Result<N, String> {
    whole(text, 1)
}

/// A number of things, or none.
pub(crate) fn number<N: TryFrom<u64>>(text: &str) -> Result<N, String> {
    whole(text, 0)
}

/// A version of a key or a store.
pub(crate) fn version(text: &str) -> Result<Version, String> {
    whole::<u64>(text, 0)
        .map(Version::new)
        .map_err(|why| format!("{why}; a version is what put, get --meta and watch tell"))
}

/// The fencing token of a lock's holder.
pub(crate) fn token(text: &str) -> Result<FencingToken, String> {
    whole::<u64>(text, 0)
        .map(FencingToken::new)
        .map_err(|why| format!("{why}; a token is what kv locks and kv lock --holder tell"))
}

fn whole<N: TryFrom<u64>>(text: &str, least: u64) -> Result<N, String> {
    let number = text.parse().ok().filter(|number| *number >= least);
    number
        .and_then(|number| N::try_from(number).ok())
        .ok_or_else(|| format!("not a whole number from {least} on"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_is_itself() {
        assert_eq!(value("a b", false, Encoding::Bytes).unwrap(), "a b");
        assert_eq!(value("@x", true, Encoding::Bytes).unwrap(), "@x");
        assert_eq!(value("-", true, Encoding::Bytes).unwrap(), "-");
        assert_eq!(value("", false, Encoding::Bytes).unwrap(), "");
    }

    #[test]
    fn encodings_are_undone() {
        assert_eq!(value("00fF 10\n", false, Encoding::Hex).unwrap(), &[0, 0xff, 0x10][..]);
        assert_eq!(value("AP8Q\n", false, Encoding::Base64).unwrap(), &[0, 0xff, 0x10][..]);
        for (text, encoding) in [("0", Encoding::Hex), ("zz", Encoding::Hex), ("A", Encoding::Base64)] {
            assert_eq!(value(text, false, encoding).unwrap_err().code(), crate::exit::USAGE);
        }
    }

    #[test]
    fn times_need_a_unit() {
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(positive_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(positive_duration("0s").is_err());
        assert!(duration("5").is_err());
    }

    #[test]
    fn numbers_are_whole_and_not_negative() {
        assert_eq!(count::<u32>("1"), Ok(1));
        assert_eq!(number::<usize>("0"), Ok(0));
        assert_eq!(version("7"), Ok(Version::new(7)));
        for text in ["0", "-1", "", "1.5", "many", "70000"] {
            assert_eq!(count::<u16>(text).unwrap_err(), "not a whole number from 1 on", "{text}");
        }
        assert!(version("-1").unwrap_err().starts_with("not a whole number from 0 on; a version is "));
    }
}
