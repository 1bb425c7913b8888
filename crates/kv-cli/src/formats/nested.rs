//! Plain JSON: objects are folders, everything else in them is a value.

use std::io::{BufRead, Read};

use kv_core::Prefix;
use serde_json::Value;

use super::{Emit, Row};
use crate::exit::Failure;

/// A document is read whole: more than this is not.
const LONGEST: u64 = 64 << 20;

/// Reads the document. Text is a value as it is; numbers, `true` and `false` are the text JSON has for
/// them; `null` and lists are refused by name.
pub(super) fn read(
    reader: impl BufRead,
    below: &Prefix,
    max_value: usize,
    emit: Emit<'_>,
) -> Result<(), Failure> {
    let mut text = Vec::new();
    reader
        .take(LONGEST + 1)
        .read_to_end(&mut text)
        .map_err(|error| Failure::io("cannot read the document", error))?;
    if text.len() as u64 > LONGEST {
        return Err(Failure::Usage(format!("the document has more than {LONGEST} bytes")));
    }
    let document: Value = serde_json::from_slice(&text)
        .map_err(|error| Failure::Usage(format!("this is not JSON: {error}")))?;
    if !document.is_object() {
        return Err(Failure::Usage("the document is not an object".to_owned()));
    }
    walk(&document, &mut Vec::new(), below, max_value, emit)
}

fn walk<'d>(
    value: &'d Value,
    path: &mut Vec<&'d str>,
    below: &Prefix,
    max_value: usize,
    emit: Emit<'_>,
) -> Result<(), Failure> {
    let text = match value {
        Value::Object(members) => {
            for (name, member) in members {
                path.push(name);
                walk(member, path, below, max_value, emit)?;
                path.pop();
            }
            return Ok(());
        }
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Null => Err("null is no value".to_owned()),
        Value::Array(_) => Err("a list is no value".to_owned()),
    };
    let name = path.join("/");
    let row = text.and_then(|text| match text.len() {
        length if length > max_value => Err(format!("too large: {length} bytes, the limit is {max_value}")),
        _ => Ok((below.join(&name).map_err(|error| error.kind().to_string())?, text)),
    });
    emit(match row {
        Ok((key, text)) => Row::entry(key, text.into()),
        Err(why) => Row::refused(format!("{name:?}"), why),
    })
}

#[cfg(test)]
mod tests {
    use kv_core::Key;

    use super::*;

    fn rows(text: &str) -> Result<Vec<Row>, Failure> {
        let mut rows = Vec::new();
        let mut emit = |row| {
            rows.push(row);
            Ok(())
        };
        read(text.as_bytes(), &Prefix::new("at").unwrap(), 10, &mut emit)?;
        Ok(rows)
    }

    #[test]
    fn objects_are_folders() {
        let text = r#"{"db":{"host":"h","port":5432,"tls":true,"none":null,"list":[1]},"long":"12345678901","..":""}"#;
        let found = rows(text).unwrap();
        let entries: Vec<_> = found.iter().filter(|row| matches!(row, Row::Entry { .. })).collect();
        let entry = |key: &str, text: &'static str| Row::entry(Key::new(key).unwrap(), text.into());
        assert_eq!(
            entries,
            [&entry("at/db/host", "h"), &entry("at/db/port", "5432"), &entry("at/db/tls", "true")]
        );
        let mut refused: Vec<_> = found
            .iter()
            .filter_map(|row| match row {
                Row::Refused { name, .. } => Some(name.as_str()),
                _ => None,
            })
            .collect();
        refused.sort_unstable();
        assert_eq!(refused, ["\"..\"", "\"db/list\"", "\"db/none\"", "\"long\""]);
        assert_eq!(rows("{}").unwrap(), []);
    }

    #[test]
    fn anything_else_is_told() {
        for text in ["", "[]", "7", "{", r#"{"a":"b"} {}"#] {
            assert_eq!(rows(text).unwrap_err().code(), crate::exit::USAGE, "{text}");
        }
    }
}
