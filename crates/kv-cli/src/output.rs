//! Writing results: tables for people, JSON for programs, bytes as they are.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use kv_core::text::escape;
use kv_core::{Entry, EntryExpiry};
use serde::Serialize;

use crate::exit::Failure;

/// The forms of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// One JSON document
    Json,
    /// One JSON document a line
    Jsonl,
}

/// Standard output, buffered. Nothing is lost silently: what cannot be written is a failure.
pub(crate) struct Output {
    out: BufWriter<StdoutLock<'static>>,
}

impl Output {
    pub(crate) fn stdout() -> Self {
        Self { out: BufWriter::new(io::stdout().lock()) }
    }

    /// These bytes and nothing else.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(write_failed)
    }

    pub(crate) fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.bytes(line.as_bytes())?;
        self.bytes(b"\n")
    }

    /// A whole text.
    pub(crate) fn text(mut self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())?;
        self.flush()
    }

    /// One line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        self.bare_json(value)?;
        self.bytes(b"\n")
    }

    /// The same without a line end.
    pub(crate) fn bare_json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        if to_person() {
            let text = serde_json::to_string(value).map_err(|error| write_failed(error.into()))?;
            return self.bytes(json_for_person(&text).as_bytes());
        }
        serde_json::to_writer(&mut self.out, value).map_err(|error| write_failed(error.into()))
    }

    /// The rows of a table, without blanks around them.
    pub(crate) fn table(&mut self, mut table: Table) -> Result<(), Failure> {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        // What is too long for a terminal goes on below itself, and not below the first column.
        let stdout = io::stdout();
        if let Some((width, _)) = to_person().then(|| terminal_size::terminal_size_of(&stdout)).flatten() {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width.0);
        }
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(write_failed)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What a failed write of output means.
pub(crate) fn write_failed(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::BrokenPipe;
    }
    Failure::io("cannot write the output", error)
}

/// Items of JSON output as they come: one document with a list in it, or a document a line.
pub(crate) struct JsonItems {
    list: bool,
    first: bool,
}

impl JsonItems {
    pub(crate) fn begin(format: Format, out: &mut Output) -> Result<Self, Failure> {
        let list = format == Format::Json;
        if list {
            out.bytes(b"[")?;
        }
        Ok(Self { list, first: true })
    }

    pub(crate) fn item(&mut self, out: &mut Output, item: &impl Serialize) -> Result<(), Failure> {
        if self.list {
            out.bytes(if self.first { b"\n" } else { b",\n" })?;
            self.first = false;
            out.bare_json(item)
        } else {
            out.json(item)
        }
    }

    pub(crate) fn end(self, out: &mut Output) -> Result<(), Failure> {
        if self.list { out.bytes(if self.first { b"]\n" } else { b"\n]\n" }) } else { Ok(()) }
    }
}

/// A value in JSON: as text where it is text, else in base64.
#[derive(Debug, Serialize)]
pub(crate) enum JsonValue<'v> {
    #[serde(rename = "value")]
    Text(&'v str),
    #[serde(rename = "base64")]
    Base64(String),
}

impl<'v> JsonValue<'v> {
    pub(crate) fn new(value: &'v [u8]) -> Self {
        match std::str::from_utf8(value) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Base64(data_encoding::BASE64.encode(value)),
        }
    }
}

/// An entry in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct JsonEntry<'e> {
    key: &'e str,
    #[serde(flatten)]
    value: Option<JsonValue<'e>>,
    /// In place of the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<JsonExpiry>,
}

impl<'e> JsonEntry<'e> {
    /// Key and value.
    pub(crate) fn bare(entry: &'e Entry) -> Self {
        let value = Some(JsonValue::new(&entry.value));
        Self { key: entry.key.as_str(), value, bytes: None, version: None, created: None, expiry: None }
    }

    /// Everything that is known of it.
    pub(crate) fn full(entry: &'e Entry) -> Self {
        Self {
            version: Some(entry.version.get()),
            created: Some(entry.created.get()),
            expiry: entry.expiry.map(JsonExpiry::new),
            ..Self::bare(entry)
        }
    }

    /// Everything but the value, of which only the length is told.
    pub(crate) fn without_value(entry: &'e Entry) -> Self {
        Self { value: None, bytes: Some(entry.value.len()), ..Self::full(entry) }
    }
}

/// When an entry goes by itself, in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct JsonExpiry {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_seconds: Option<f64>,
}

impl JsonExpiry {
    pub(crate) fn new(expiry: EntryExpiry) -> Self {
        let (kind, ttl, remaining) = match expiry {
            EntryExpiry::Never => ("never", None, None),
            EntryExpiry::Ttl { granted, remaining, .. } => ("ttl", Some(granted), remaining),
            EntryExpiry::Session => ("session", None, None),
            _ => ("unknown", None, None),
        };
        Self {
            kind,
            ttl_seconds: ttl.map(|ttl| ttl.as_secs_f64()),
            remaining_seconds: remaining.map(|left| left.as_secs_f64()),
        }
    }
}

/// How an entry expires, in words.
pub(crate) fn expiry_words(expiry: EntryExpiry) -> String {
    match expiry {
        EntryExpiry::Never => "never".to_owned(),
        EntryExpiry::Ttl { granted, remaining: Some(remaining), .. } => {
            format!("in {} of {}", duration(remaining), duration(granted))
        }
        EntryExpiry::Ttl { granted, remaining: None, .. } => {
            format!("{} after its last put", duration(granted))
        }
        EntryExpiry::Session => "with the session that put it".to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// A time in words, without digits nobody reads.
pub(crate) fn duration(duration: Duration) -> String {
    const MILLION: u32 = 1_000_000;
    kv_core::text::duration(if duration >= Duration::from_secs(1) {
        Duration::new(duration.as_secs(), duration.subsec_nanos() / MILLION * MILLION)
    } else {
        Duration::from_micros(u64::from(duration.subsec_micros()))
    })
}

/// A table without lines around it.
pub(crate) fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// A message for people, on standard error, its second and later lines indented. If even that is closed
/// there is nobody left to tell.
pub(crate) fn say(message: &str) {
    let _ = writeln!(io::stderr(), "{}", indented(&escaped_lines(message)));
}

/// The same message, its lines told from the first of another.
fn indented(message: &str) -> String {
    let lines = message.split('\n').enumerate().map(|(at, line)| match line.chars().next() {
        Some(first) if at > 0 && !first.is_whitespace() => format!("  {line}"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The name of a key as whoever reads standard output gets it: made harmless on a terminal, as it is in
/// a pipe or a file.
pub(crate) fn for_reader(name: &str) -> Cow<'_, str> {
    if to_person() { escape(name) } else { Cow::Borrowed(name) }
}

/// Text of several lines, made harmless line by line.
pub(crate) fn escaped_lines(text: &str) -> String {
    let lines = text.split('\n').map(|line| {
        let parts: Vec<_> = line.split('\t').map(escape).collect();
        parts.join("\t")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Bytes that are mostly text, in one harmless line.
pub(crate) fn bytes_words(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => escape(text),
        Err(_) => bytes.escape_ascii().to_string().into(),
    }
}

/// A JSON document of which nothing acts on a terminal, and which means the same.
fn json_for_person(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match escape(c.encode_utf8(&mut [0; 4])) {
            Cow::Borrowed(_) => text.push(c),
            // It stands in a string: between those JSON has nothing but blanks and signs.
            Cow::Owned(_) if c != '\n' => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(text, "\\u{unit:04x}");
                }
            }
            Cow::Owned(_) => text.push(c),
        }
    }
    text
}

/// Whether a person looks at standard output.
pub(crate) fn to_person() -> bool {
    io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_json_that_means_the_same() {
        let value = "safe\u{202e}exe \u{9b}2J \u{e0041} ü\n";
        let json = serde_json::to_string(&[value]).unwrap();
        let shown = json_for_person(&json);
        assert_eq!(shown, "[\"safe\\u202eexe \\u009b2J \\udb40\\udc41 ü\\n\"]");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), [value]);
    }

    #[test]
    fn later_lines_of_a_message_are_indented() {
        assert_eq!(indented("kv: one\nadvice\n\n  more"), "kv: one\n  advice\n\n  more");
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(escaped_lines("a\tb\n\u{1b}[2J\u{202e}\r\n"), "a\tb\n\\u{1b}[2J\\u{202e}\\r\n");
    }
}
