//! JSON lines: one object a row, `{"key":"a/b","value":"text"}`, or `"base64"` in place of `"value"`
//! for what is not UTF-8.

use std::io::{BufRead, Read};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use kv_core::{Entry, EntryExpiry, Prefix};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::{Emit, Row, RowExpiry};
use crate::exit::Failure;
use crate::output::{JsonExpiry, JsonValue};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    value: Option<String>,
    base64: Option<String>,
    // Written by `export --meta` and `get -o json`; a put gives its own.
    #[serde(rename = "version")]
    _version: Option<IgnoredAny>,
    #[serde(rename = "created")]
    _created: Option<IgnoredAny>,
    expiry: Option<LineExpiry>,
}

/// When the entry goes, in the words of [`JsonExpiry`].
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum LineExpiry {
    Never,
    Ttl { ttl_seconds: Option<f64>, remaining_seconds: Option<f64> },
    Session,
}

impl LineExpiry {
    fn read(self) -> Result<RowExpiry, String> {
        let time = |name: &str, seconds: Option<f64>| {
            let time = seconds.map(Duration::try_from_secs_f64).transpose();
            time.map_err(|_| {
                format!("the {name} of its expiry is not a time: {}", seconds.unwrap_or_default())
            })
        };
        Ok(match self {
            Self::Never => RowExpiry::Never,
            Self::Session => RowExpiry::Session,
            Self::Ttl { ttl_seconds, remaining_seconds } => {
                let granted = time("ttl_seconds", ttl_seconds)?;
                let remaining = time("remaining_seconds", remaining_seconds)?;
                if granted == Some(Duration::ZERO) {
                    return Err("the ttl_seconds of its expiry are 0".to_owned());
                }
                if granted.is_none() && remaining.is_none() {
                    return Err("its expiry needs ttl_seconds or remaining_seconds".to_owned());
                }
                if let Some((granted, remaining)) = granted.zip(remaining).filter(|(all, left)| left > all) {
                    return Err(format!(
                        "the remaining_seconds of its expiry, {}, are more than its ttl_seconds, {}",
                        remaining.as_secs_f64(),
                        granted.as_secs_f64()
                    ));
                }
                RowExpiry::Ttl { granted, remaining }
            }
        })
    }
}

/// One row as it is written.
#[derive(Debug, Serialize)]
pub(crate) struct Written<'r> {
    key: &'r str,
    #[serde(flatten)]
    value: JsonValue<'r>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<JsonExpiry>,
}

impl<'r> Written<'r> {
    /// The row of an entry under this name, with its versions or without. When it expires is told
    /// where it is known and it does.
    pub(crate) fn new(name: &'r str, entry: &'r Entry, meta: bool) -> Self {
        Self {
            key: name,
            value: JsonValue::new(&entry.value),
            version: meta.then_some(entry.version.get()),
            created: meta.then_some(entry.created.get()),
            expiry: entry.expiry.filter(|expiry| *expiry != EntryExpiry::Never).map(JsonExpiry::new),
        }
    }
}

/// Reads rows line by line. A line that is no row ends it: the file is not what it should be.
pub(super) fn read(
    mut reader: impl BufRead,
    below: &Prefix,
    max_value: usize,
    emit: Emit<'_>,
) -> Result<(), Failure> {
    let longest = super::longest_row(max_value) as u64;
    let mut number = 0_u64;
    let mut line = Vec::new();
    loop {
        number += 1;
        line.clear();
        let read = (&mut reader).take(longest).read_until(b'\n', &mut line);
        match read.map_err(|error| Failure::io(format!("cannot read line {number}"), error))? {
            0 => return Ok(()),
            _ if line.trim_ascii().is_empty() => continue,
            length if length as u64 == longest && !line.ends_with(b"\n") => {
                emit(Row::refused(format!("line {number}"), format!("more than {longest} bytes long")))?;
                skip_line(&mut reader).map_err(|error| Failure::io("cannot read on", error))?;
            }
            _ => emit(row(&line, below).map_err(|why| Failure::Usage(format!("line {number}: {why}")))?)?,
        }
    }
}

fn row(line: &[u8], below: &Prefix) -> Result<Row, String> {
    // serde_json counts lines itself, and this one is always its first.
    let line: Line = serde_json::from_slice(line)
        .map_err(|error| error.to_string().replace("at line 1 column", "at column"))?;
    let value: Bytes = match (line.value, line.base64) {
        (Some(text), None) => text.into(),
        (None, Some(code)) => match BASE64.decode(code.as_bytes()) {
            Ok(bytes) => bytes.into(),
            Err(error) => return Err(format!("the key {:?} has bad base64: {error}", line.key)),
        },
        _ => return Err(format!("the key {:?} needs either \"value\" or \"base64\"", line.key)),
    };
    let expiry = match line.expiry.map_or(Ok(RowExpiry::Never), LineExpiry::read) {
        Ok(expiry) => expiry,
        Err(why) => return Err(format!("the key {:?}: {why}", line.key)),
    };
    Ok(match below.join(&line.key) {
        Ok(key) => Row::Entry { key, value, expiry },
        Err(error) => Row::refused(format!("{:?}", line.key), error.kind().to_string()),
    })
}

fn skip_line(reader: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let bytes = reader.fill_buf()?;
        let (skip, done) = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (bytes.len(), bytes.is_empty()),
        };
        reader.consume(skip);
        if done {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use kv_core::{Key, Version};

    use super::*;

    fn rows(text: &[u8], max_value: usize) -> Result<Vec<Row>, Failure> {
        let mut rows = Vec::new();
        let mut emit = |row| {
            rows.push(row);
            Ok(())
        };
        read(text, &Prefix::root(), max_value, &mut emit)?;
        Ok(rows)
    }

    fn entry(key: &str, value: &[u8]) -> Row {
        Row::entry(Key::new(key).unwrap(), Bytes::copy_from_slice(value))
    }

    #[test]
    fn rows_are_read() {
        let text = br#"{"key":"a","value":"text"}

{"base64":"AP8=","key":"/a//b/","version":7,"created":5,"expiry":{"kind":"never"}}
{"key":"empty","value":""}"#;
        let expected = [entry("a", b"text"), entry("a/b", &[0, 255]), entry("empty", b"")];
        assert_eq!(rows(text, 100).unwrap(), expected);
    }

    #[test]
    fn what_is_written_is_read() {
        for value in [&b""[..], b"text\n\"\\\0", "ü\u{2028}".as_bytes(), &[0, 159, 146, 150], b"\xff"] {
            let key = Key::new("a b/ü").unwrap();
            let value = Bytes::copy_from_slice(value);
            let stored = Entry::new(key.clone(), value.clone(), Version::new(7), Version::new(5));
            for meta in [false, true] {
                let text = serde_json::to_vec(&Written::new(key.as_str(), &stored, meta)).unwrap();
                assert_eq!(rows(&text, 100).unwrap(), [entry("a b/ü", &value)]);
            }
        }
    }

    #[test]
    fn an_expiry_is_read_and_nonsense_is_told() {
        let expiry = |text: &str| {
            let row = format!(r#"{{"key":"a","value":"","expiry":{text}}}"#);
            rows(row.as_bytes(), 100).map(|mut rows| match rows.remove(0) {
                Row::Entry { expiry, .. } => expiry,
                other => panic!("{other:?}"),
            })
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (text, expected) in [
            (r#"{"kind":"never"}"#, RowExpiry::Never),
            (r#"{"kind":"session"}"#, RowExpiry::Session),
            (r#"{"kind":"ttl","ttl_seconds":60}"#, RowExpiry::Ttl { granted: seconds(60), remaining: None }),
            (
                r#"{"kind":"ttl","ttl_seconds":60.0,"remaining_seconds":0}"#,
                RowExpiry::Ttl { granted: seconds(60), remaining: seconds(0) },
            ),
        ] {
            assert_eq!(expiry(text).unwrap(), expected, "{text}");
        }
        for text in [
            "7",
            "\"soon\"",
            "{}",
            r#"{"kind":"later"}"#,
            r#"{"kind":"ttl"}"#,
            r#"{"kind":"ttl","ttl_seconds":0}"#,
            r#"{"kind":"ttl","ttl_seconds":-1}"#,
            r#"{"kind":"ttl","ttl_seconds":1e30}"#,
            r#"{"kind":"ttl","ttl_seconds":"60"}"#,
            r#"{"kind":"ttl","ttl_seconds":60,"remaining_seconds":-1}"#,
            r#"{"kind":"ttl","ttl_seconds":60,"remaining_seconds":60.5}"#,
        ] {
            let failure = expiry(text).unwrap_err();
            assert_eq!(failure.code(), crate::exit::USAGE, "{text}");
            assert!(failure.to_string().starts_with("line 1: "), "{failure}");
        }
    }

    #[test]
    fn a_bad_name_is_refused_and_the_rest_goes_on() {
        let text = b"{\"key\":\"a/../b\",\"value\":\"\"}\n{\"key\":\"c\",\"value\":\"\"}\n";
        let found = rows(text, 100).unwrap();
        assert!(matches!(&found[0], Row::Refused { name, .. } if name == "\"a/../b\""), "{found:?}");
        assert_eq!(found[1], entry("c", b""));
    }

    #[test]
    fn a_line_without_end_is_refused_without_being_kept() {
        let mut text = vec![b'x'; 1 << 20];
        text.extend_from_slice(b"\n{\"key\":\"c\",\"value\":\"\"}\n");
        let found = rows(&text, 1).unwrap();
        assert!(matches!(&found[0], Row::Refused { name, .. } if name == "line 1"), "{found:?}");
        assert_eq!(found[1..], [entry("c", b"")]);
    }

    #[test]
    fn what_is_no_row_ends_it_with_its_line() {
        for text in [
            "{\"key\":\"a\",\"value\":\"\"}\nnonsense",
            "\n{\"key\":\"a\"}",
            "\n{\"key\":\"a\",\"value\":\"\",\"base64\":\"\"}",
            "\n{\"key\":\"a\",\"base64\":\"x\"}",
            "\n{\"key\":\"a\",\"value\":\"\",\"more\":1}",
            "\n{\"value\":\"a\"}",
        ] {
            let failure = rows(text.as_bytes(), 100).unwrap_err();
            assert_eq!(failure.code(), crate::exit::USAGE);
            assert!(failure.to_string().starts_with("line 2: "), "{failure}");
        }
    }
}
