//! Writing results: tables for people, JSON for programs, bytes as they are.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{Table, presets};
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

    /// One line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.out, value).map_err(|error| write_failed(error.into()))?;
        self.bytes(b"\n")
    }

    /// The rows of a table, without blanks around them.
    pub(crate) fn table(&mut self, mut table: Table) -> Result<(), Failure> {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
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
            serde_json::to_writer(&mut *out, item).map_err(|error| write_failed(error.into()))
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

#[derive(Debug, Serialize)]
struct JsonExpiry {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining_seconds: Option<f64>,
}

impl JsonExpiry {
    fn new(expiry: EntryExpiry) -> Self {
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
    const DAY: u64 = 24 * 3600;
    if duration.subsec_nanos() == 0
        && duration >= Duration::from_secs(DAY)
        && duration.as_secs().is_multiple_of(DAY)
    {
        return format!("{} days", duration.as_secs() / DAY);
    }
    let rounded = if duration >= Duration::from_secs(1) {
        Duration::new(duration.as_secs(), duration.subsec_nanos() / MILLION * MILLION)
    } else {
        Duration::from_micros(u64::from(duration.subsec_micros()))
    };
    humantime::format_duration(rounded).to_string()
}

/// A table without lines around it.
pub(crate) fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// A line for people, on standard error. If even that is closed there is nobody left to tell.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether a person looks at standard output.
pub(crate) fn to_person() -> bool {
    io::stdout().is_terminal()
}
