//! `kv get`: one value, byte for byte, or with everything known about it.

use kv_core::{Consistency, Entry, GetOptions, Operation};

use crate::cli::Get;
use crate::exit::Failure;
use crate::input::Encoding;
use crate::output::{Format, JsonEntry, Output, expiry_words, table, to_person};
use crate::session::Session;

pub(crate) async fn run(session: &Session, args: Get) -> Result<(), Failure> {
    let key = super::key(&args.key, Operation::Get)?;
    let mut options = GetOptions::default();
    if args.stale {
        options = options.with_consistency(Consistency::Stale);
    }
    if args.meta {
        options = options.with_expiry();
    }
    options.timeout = session.timeout();
    let entry = session.store().await?.get_with(&key, options).await?;
    let entry = entry.ok_or_else(|| Failure::NotFound(format!("get {key:?}: there is no such key")))?;

    let encoding = Encoding::of(args.hex, args.base64);
    let mut out = Output::stdout();
    match (session.output(), args.meta) {
        (Some(Format::Json | Format::Jsonl), _) => out.json(&JsonEntry::full(&entry))?,
        (Some(Format::Table), _) | (None, true) => show(&mut out, &entry, encoding)?,
        (None, false) => bare(&mut out, &entry.value, encoding)?,
    }
    out.flush()
}

/// The value alone. Nothing is added to it unless a person reads it.
fn bare(out: &mut Output, value: &[u8], encoding: Encoding) -> Result<(), Failure> {
    if let Some(text) = encoding.encode(value) {
        return out.line(&text);
    }
    if to_person() {
        if !is_text(value) {
            return Err(Failure::Usage(
                "the value is not text and is not written to a terminal; use --hex or --base64, or redirect it"
                    .to_owned(),
            ));
        }
        if !value.is_empty() && !value.ends_with(b"\n") {
            out.bytes(value)?;
            return out.bytes(b"\n");
        }
    }
    out.bytes(value)
}

fn show(out: &mut Output, entry: &Entry, encoding: Encoding) -> Result<(), Failure> {
    let value = match encoding.encode(&entry.value) {
        Some(text) => text,
        None if is_text(&entry.value) => String::from_utf8_lossy(&entry.value).into_owned(),
        None => "(not text: --hex or --base64 shows it)".to_owned(),
    };
    let mut table = table();
    table.add_row(["key", entry.key.as_str()]);
    table.add_row(["version", &entry.version.to_string()]);
    table.add_row(["created", &entry.created.to_string()]);
    if let Some(expiry) = entry.expiry {
        table.add_row(["expires", &expiry_words(expiry)]);
    }
    table.add_row(["bytes", &entry.value.len().to_string()]);
    table.add_row(["value", &value]);
    out.table(table)
}

/// Whether a terminal shows it without doing anything else.
fn is_text(value: &[u8]) -> bool {
    std::str::from_utf8(value)
        .is_ok_and(|text| !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r')))
}

#[cfg(test)]
mod tests {
    use super::is_text;

    #[test]
    fn only_text_goes_to_a_terminal() {
        assert!(is_text("ü\n\ttext".as_bytes()));
        assert!(is_text(b""));
        for value in [&b"\x1b[2J"[..], b"\0", b"\xff", "\u{9b}2J".as_bytes()] {
            assert!(!is_text(value));
        }
    }
}
