//! What `consul kv export` writes and `consul kv import` reads: a JSON array of key, flags and value
//! in base64.

use std::io::BufRead;

use data_encoding::BASE64;
use kv_core::{Entry, Key, Prefix};
use serde::{Deserialize, Serialize};

use super::array::{Broken, Element, Elements};
use super::{Emit, Row};
use crate::exit::Failure;

/// The flags Consul's own tools mark a lock's record with.
const LOCK_FLAGS: u64 = 0x2ddc_cbc0_58a5_0c18;
/// The same for a semaphore's.
const SEMAPHORE_FLAGS: u64 = 0xe0f6_9a2b_aa41_4de0;

/// A row; the names with capitals are those of Consul's HTTP interface.
#[derive(Deserialize)]
struct Exported {
    #[serde(alias = "Key")]
    key: String,
    #[serde(alias = "Flags", default)]
    flags: u64,
    #[serde(alias = "Value", default)]
    value: Option<String>,
}

/// One row as it is written.
#[derive(Debug, Serialize)]
pub(crate) struct Written<'r> {
    key: &'r str,
    flags: u64,
    value: String,
}

impl<'r> Written<'r> {
    /// The row of an entry under this name.
    pub(crate) fn new(name: &'r str, entry: &Entry) -> Self {
        Self { key: name, flags: 0, value: BASE64.encode(&entry.value) }
    }
}

/// Reads the array element by element. A row longer than any value the store takes is refused without
/// being kept, and the rest goes on.
pub(super) fn read(
    reader: impl BufRead,
    below: &Prefix,
    max_value: usize,
    emit: Emit<'_>,
) -> Result<(), Failure> {
    let longest = super::longest_row(max_value);
    let mut elements = Elements::new(reader, longest);
    let mut number = 0_u64;
    loop {
        number += 1;
        let row = match elements.next() {
            Ok(None) => return Ok(()),
            Ok(Some(Element::TooLong)) => {
                Row::refused(format!("row {number}"), format!("more than {longest} bytes long"))
            }
            Ok(Some(Element::Text(text))) => serde_json::from_slice(text)
                .map_err(|error| error.to_string())
                .and_then(|exported| row(exported, below))
                .map_err(|why| unlike(&format!("row {number}: {why}")))?,
            Err(Broken::Read(error)) => return Err(Failure::io("cannot read the export", error)),
            Err(broken) => return Err(unlike(&broken.to_string())),
        };
        emit(row)?;
    }
}

fn unlike(why: &str) -> Failure {
    Failure::Usage(format!("this is not what consul kv export writes: {why}"))
}

fn row(exported: Exported, below: &Prefix) -> Result<Row, String> {
    let Exported { key, flags, value } = exported;
    let name = format!("{key:?}");
    if matches!(flags, LOCK_FLAGS | SEMAPHORE_FLAGS) {
        return Ok(Row::refused(name, "the record of a lock"));
    }
    // To Consul `a/` and `a` are two keys; normalised away, one would overwrite the other.
    let canonical = Key::new(&key).map_err(|error| error.kind().to_string()).and_then(|canonical| {
        if canonical.as_str() == key { Ok(canonical) } else { Err(format!("not the same as {canonical:?}")) }
    });
    let joined = canonical.and_then(|key| below.join(key.as_str()).map_err(|error| error.kind().to_string()));
    let value = BASE64
        .decode(value.unwrap_or_default().as_bytes())
        .map_err(|error| format!("the key {name} has bad base64: {error}"))?;
    Ok(match joined {
        Ok(key) => Row::entry(key, value.into()),
        Err(why) => Row::refused(name, why),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn rows(text: &str) -> Result<Vec<Row>, Failure> {
        let mut rows = Vec::new();
        let mut emit = |row| {
            rows.push(row);
            Ok(())
        };
        read(text.as_bytes(), &Prefix::new("at").unwrap(), 100, &mut emit)?;
        Ok(rows)
    }

    fn entry(key: &str, value: &[u8]) -> Row {
        Row::entry(Key::new(key).unwrap(), Bytes::copy_from_slice(value))
    }

    #[test]
    fn rows_are_read() {
        let text = r#"[
	{
		"key": "a/b",
		"flags": 42,
		"value": "AP8="
	},
	{"key": "empty", "flags": 0, "value": ""},
	{"LockIndex": 0, "Key": "http", "Flags": 0, "Value": null, "CreateIndex": 5}
]
"#;
        let expected = [entry("at/a/b", &[0, 255]), entry("at/empty", b""), entry("at/http", b"")];
        assert_eq!(rows(text).unwrap(), expected);
        assert_eq!(rows("[]").unwrap(), []);
    }

    #[test]
    fn locks_and_other_names_are_refused() {
        let text = format!(
            r#"[{{"key":"a/.lock","flags":{LOCK_FLAGS},"value":""}},{{"key":"folder/","flags":0,"value":""}},
               {{"key":"a/../b","flags":0,"value":""}},{{"key":"c","flags":0,"value":""}}]"#
        );
        let found = rows(&text).unwrap();
        let refused: Vec<_> = found.iter().filter(|row| matches!(row, Row::Refused { .. })).collect();
        assert_eq!(refused.len(), 3, "{found:?}");
        assert_eq!(found[3], entry("at/c", b""));
    }

    #[test]
    fn a_row_longer_than_any_value_is_refused_and_the_rest_goes_on() {
        let long = "A".repeat(1 << 20);
        let text = format!(r#"[{{"key":"a","value":"{long}"}},{{"key":"b","flags":0,"value":""}}]"#);
        let found = rows(&text).unwrap();
        assert!(matches!(&found[0], Row::Refused { name, .. } if name == "row 1"), "{found:?}");
        assert_eq!(found[1..], [entry("at/b", b"")]);
    }

    #[test]
    fn anything_else_is_told() {
        for text in ["{}", "[", r#"[{"flags":0}]"#, r#"[{"key":"a","value":"x"}]"#, "[] []"] {
            assert_eq!(rows(text).unwrap_err().code(), crate::exit::USAGE, "{text}");
        }
    }

    #[test]
    fn it_stops_when_nobody_wants_more() {
        let mut emit = |_| Err(Failure::BrokenPipe);
        let text = r#"[{"key":"a","value":""}]"#;
        let failure = read(text.as_bytes(), &Prefix::root(), 100, &mut emit).unwrap_err();
        assert!(matches!(failure, Failure::BrokenPipe));
    }
}
