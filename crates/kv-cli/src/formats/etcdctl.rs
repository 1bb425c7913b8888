//! What `etcdctl get PREFIX --prefix -w json` writes: an object with the entries in an array `kvs`, keys
//! and values in base64.

use std::io::BufRead;

use data_encoding::BASE64;
use kv_core::Prefix;
use serde::Deserialize;

use super::array::{Broken, Element, Elements};
use super::{Emit, Row, RowExpiry};
use crate::exit::Failure;

/// How such a text begins.
pub(super) const BEGIN: &[u8] = b"{\"header\"";
/// What stands before the array.
const ENTRIES: &[u8] = b"\"kvs\":";

#[derive(Deserialize)]
struct Entry {
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    lease: i64,
}

/// Reads entry by entry. One longer than any value the store takes is refused without being kept.
pub(super) fn read(
    mut reader: impl BufRead,
    below: &Prefix,
    max_value: usize,
    emit: Emit<'_>,
) -> Result<(), Failure> {
    let found = skip_to_entries(&mut reader).map_err(|error| Failure::io("cannot read the dump", error))?;
    if !found {
        // etcdctl leaves the array out where there is nothing.
        return Ok(());
    }
    let longest = super::longest_row(max_value);
    let mut elements = Elements::within(reader, longest);
    let mut number = 0_u64;
    loop {
        number += 1;
        let row = match elements.next() {
            Ok(None) => return Ok(()),
            Ok(Some(Element::TooLong)) => {
                Row::refused(format!("entry {number}"), format!("more than {longest} bytes long"))
            }
            Ok(Some(Element::Text(text))) => {
                row(text, below).map_err(|why| unlike(&format!("entry {number}: {why}")))?
            }
            Err(Broken::Read(error)) => return Err(Failure::io("cannot read the dump", error)),
            Err(broken) => return Err(unlike(&broken.to_string())),
        };
        emit(row)?;
    }
}

fn unlike(why: &str) -> Failure {
    Failure::Usage(format!("this is not what etcdctl get -w json writes: {why}"))
}

/// Reads up to the array; `false` if there is none. What stands before it are numbers.
fn skip_to_entries(reader: &mut impl BufRead) -> std::io::Result<bool> {
    let mut seen = 0;
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(false);
        }
        let mut read = 0;
        for byte in bytes {
            read += 1;
            seen = match ENTRIES.get(seen) {
                Some(next) if next == byte => seen + 1,
                _ => usize::from(*byte == ENTRIES[0]),
            };
            if seen == ENTRIES.len() {
                break;
            }
        }
        reader.consume(read);
        if seen == ENTRIES.len() {
            return Ok(true);
        }
    }
}

fn row(text: &[u8], below: &Prefix) -> Result<Row, String> {
    let Entry { key, value, lease } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let decode = |text: &str| BASE64.decode(text.as_bytes()).map_err(|error| format!("bad base64: {error}"));
    let (key, value) = (decode(&key)?, decode(&value)?);
    let Ok(name) = std::str::from_utf8(&key) else {
        return Ok(Row::refused(format!("\"{}\"", key.escape_ascii()), "the name is not UTF-8"));
    };
    let expiry = if lease == 0 { RowExpiry::Never } else { RowExpiry::Lease };
    Ok(match below.join(name) {
        Ok(key) => Row::Entry { key, value: value.into(), expiry },
        Err(error) => Row::refused(format!("{name:?}"), error.kind().to_string()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use kv_core::Key;

    use super::*;

    fn rows(text: &str) -> Result<Vec<Row>, Failure> {
        let mut rows = Vec::new();
        let mut emit = |row| {
            rows.push(row);
            Ok(())
        };
        // One byte at a time: where a buffer ends means nothing.
        let reader = BufReader::with_capacity(1, text.as_bytes());
        read(reader, &Prefix::new("at").unwrap(), 100, &mut emit)?;
        Ok(rows)
    }

    #[test]
    fn entries_are_read() {
        let text = concat!(
            r#"{"header":{"cluster_id":14841639068965178418,"revision":4},"kvs":["#,
            r#"{"key":"YS9i","create_revision":2,"mod_revision":2,"version":1,"value":"AP8="},"#,
            r#"{"key":"L2M=","create_revision":3,"mod_revision":3,"version":1,"lease":7587},"#,
            r#"{"key":"YS8uLi9i","value":""}],"count":3}"#
        );
        let key = |name| Key::new(name).unwrap();
        let expected = [
            Row::entry(key("at/a/b"), vec![0, 255].into()),
            Row::Entry { key: key("at/c"), value: "".into(), expiry: RowExpiry::Lease },
        ];
        let found = rows(text).unwrap();
        assert_eq!(found[..2], expected);
        assert!(matches!(&found[2], Row::Refused { name, .. } if name == "\"a/../b\""), "{found:?}");
        assert_eq!(rows(r#"{"header":{"revision":4}}"#).unwrap(), []);
    }

    #[test]
    fn anything_else_is_told() {
        for text in
            [r#"{"header":{},"kvs":7"#, r#"{"kvs":[{"key":"x"}]"#, r#"{"kvs":[{"value":""}]}"#, r#"{"kvs":["#]
        {
            assert_eq!(rows(text).unwrap_err().code(), crate::exit::USAGE, "{text}");
        }
    }
}
