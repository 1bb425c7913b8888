//! An entry as `kv get` writes it: its value alone, or everything known about it.

use kv_core::Entry;
use kv_core::text::escape;

use crate::exit::Failure;
use crate::input::Encoding;
use crate::output::{Output, escaped_lines, expiry_words, table, to_person};

/// The value alone. Nothing is added to it unless a person reads it.
pub(super) fn bare(out: &mut Output, value: &[u8], encoding: Encoding) -> Result<(), Failure> {
    if let Some(text) = encoding.encode(value) {
        return out.line(&text);
    }
    if !to_person() {
        return out.bytes(value);
    }
    let Ok(text) = std::str::from_utf8(value) else {
        return Err(Failure::Usage(
            "the value is not text and is not written to a terminal; use --hex or --base64, or redirect it"
                .to_owned(),
        ));
    };
    out.bytes(escaped_lines(text).as_bytes())?;
    if text.is_empty() || text.ends_with('\n') { Ok(()) } else { out.bytes(b"\n") }
}

/// Whether the next value begins on a line of its own once [`bare`] has written this one.
pub(super) fn ends_line(value: &[u8]) -> bool {
    value.ends_with(b"\n") || (to_person() && !value.is_empty())
}

pub(super) fn show(out: &mut Output, entry: &Entry, encoding: Encoding) -> Result<(), Failure> {
    let value = match encoding.encode(&entry.value) {
        Some(text) => text,
        None => match std::str::from_utf8(&entry.value) {
            Ok(text) => escaped_lines(text),
            Err(_) => "(not text: --hex or --base64 shows it)".to_owned(),
        },
    };
    let mut table = table();
    table.add_row(["key", &escape(entry.key.as_str())]);
    table.add_row(["version", &entry.version.to_string()]);
    table.add_row(["created", &entry.created.to_string()]);
    if let Some(expiry) = entry.expiry {
        table.add_row(["expires", &expiry_words(expiry)]);
    }
    table.add_row(["bytes", &entry.value.len().to_string()]);
    table.add_row(["value", &value]);
    out.table(table)
}
