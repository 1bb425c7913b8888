//! Snapshots in files: JSON lines between a head and a foot with a checksum.

use std::io::{self, BufRead, Read as _, Write};

use data_encoding::{BASE64, HEXLOWER};
use kv_core::{Entry, Error, ErrorKind, Key, Operation, Version};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::state::{Consistent, Snapshot};
use crate::names::Prefixes;

/// What a file of this form begins with.
const FORMAT: &str = "kv-snapshot-1";

/// A longer line is none of ours: no store takes a value that large.
const LONGEST_LINE: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: String,
    prefixes: Vec<String>,
    consistency: Told,
    as_of: Option<u64>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    AtVersion,
    Confirmed,
    Fuzzy,
}

/// An entry, as `kv export --meta` writes it too.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    version: u64,
    created: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Foot {
    entries: u64,
    sha256: String,
}

impl Snapshot {
    /// Writes the snapshot as JSON lines: a head, an entry a line as `kv export --meta` writes it, and a
    /// foot with the number of entries and the SHA-256 of everything before.
    ///
    /// # Errors
    ///
    /// What the writer fails with.
    pub fn write(&self, writer: impl Write) -> io::Result<()> {
        let mut hashing = Hashing { writer: io::BufWriter::new(writer), hash: Sha256::new() };
        let consistency = match self.consistency {
            Consistent::AtVersion(_) => Told::AtVersion,
            Consistent::Confirmed => Told::Confirmed,
            Consistent::Fuzzy => Told::Fuzzy,
        };
        hashing.line(&Head {
            format: FORMAT.to_owned(),
            prefixes: self.prefixes().iter().map(|prefix| prefix.as_str().to_owned()).collect(),
            consistency,
            as_of: self.as_of.map(Version::get),
        })?;
        for entry in &self.entries {
            let (value, base64) = match std::str::from_utf8(&entry.value) {
                Ok(text) => (Some(text.to_owned()), None),
                Err(_) => (None, Some(BASE64.encode(&entry.value))),
            };
            let (version, created) = (entry.version.get(), entry.created.get());
            hashing.line(&Line { key: entry.key.as_str().to_owned(), value, base64, version, created })?;
        }
        let sha256 = HEXLOWER.encode(&hashing.hash.clone().finalize());
        hashing.line(&Foot { entries: self.entries.len() as u64, sha256 })?;
        hashing.writer.flush()
    }

    /// Reads a snapshot that [`write`](Self::write) wrote.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] for a file that was cut, changed or lengthened, or is none, with a
    /// [`kv_core::Error`] inside that says in which line; what the reader fails with.
    pub fn read(reader: impl BufRead) -> io::Result<Self> {
        let mut lines = Lines { reader, hash: Sha256::new(), number: 0, line: Vec::new() };
        let mut head = None;
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let before = lines.hash.clone();
            if !lines.advance()? {
                return Err(lines.corrupt("the file ends before its foot: it was cut"));
            }
            if head.is_none() {
                let read: Head = lines.parse()?;
                if read.format != FORMAT {
                    return Err(lines.corrupt("it is a snapshot of another format"));
                }
                head = Some(read);
                continue;
            }
            if lines.line.starts_with(b"{\"entries\":") {
                let foot: Foot = lines.parse()?;
                if foot.sha256 != HEXLOWER.encode(&before.finalize()) || foot.entries != entries.len() as u64
                {
                    return Err(lines.corrupt("the checksum is another: the file was changed"));
                }
                break;
            }
            let entry = lines.parse::<Line>()?.entry().map_err(|reason| lines.corrupt(reason))?;
            if entries.last().is_some_and(|last| last.key >= entry.key) {
                return Err(lines.corrupt("its key is not behind the one before"));
            }
            entries.push(entry);
        }
        if lines.advance()? {
            return Err(lines.corrupt("it stands behind the foot"));
        }
        let Some(head) = head else { return Err(lines.corrupt("there is no head")) };
        let as_of = head.as_of.map(Version::new);
        let consistency = match (head.consistency, as_of) {
            (Told::AtVersion, Some(version)) => Consistent::AtVersion(version),
            (Told::AtVersion, None) => return Err(lines.corrupt("the head names no version")),
            (Told::Confirmed, _) => Consistent::Confirmed,
            (Told::Fuzzy, _) => Consistent::Fuzzy,
        };
        let prefixes = Prefixes::new(head.prefixes.iter().map(String::as_str), Operation::List)
            .map_err(|_| lines.corrupt("the head names a prefix that is none"))?;
        if entries.iter().any(|entry| !prefixes.covers(&entry.key)) {
            return Err(lines.corrupt("an entry lies outside of the prefixes"));
        }
        Ok(Self { prefixes, consistency, as_of, entries })
    }
}

impl Line {
    fn entry(self) -> Result<Entry, &'static str> {
        let key = Key::from_canonical(&self.key).ok_or("its key is none")?;
        let value = match (self.value, self.base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(base64)) => BASE64.decode(base64.as_bytes()).map_err(|_| "its value is no base64")?,
            _ => return Err("it has no value, or two"),
        };
        if self.version < self.created {
            return Err("it was changed before it was created");
        }
        Ok(Entry::new(key, value.into(), Version::new(self.version), Version::new(self.created)))
    }
}

/// Writes lines and knows their checksum.
struct Hashing<W: Write> {
    writer: W,
    hash: Sha256,
}

impl<W: Write> Hashing<W> {
    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.hash.update(&text);
        self.writer.write_all(&text)
    }
}

/// Reads lines and knows the checksum of those read.
struct Lines<R: BufRead> {
    reader: R,
    hash: Sha256,
    number: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Reads the next line; `false` at the end. A last line without its end was cut.
    fn advance(&mut self) -> io::Result<bool> {
        self.line.clear();
        let read = (&mut self.reader).take(LONGEST_LINE).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(false);
        }
        self.number += 1;
        if self.line.last() != Some(&b'\n') {
            return Err(self.corrupt("the line has no end: it was cut, or is too long"));
        }
        self.hash.update(&self.line);
        Ok(true)
    }

    fn parse<'l, T: Deserialize<'l>>(&'l self) -> io::Result<T> {
        // What the parser says can repeat a value.
        serde_json::from_slice(&self.line).map_err(|_| self.corrupt("the line is not of this format"))
    }

    fn corrupt(&self, reason: &str) -> io::Error {
        let detail = format!("snapshot, line {}: {reason}", self.number);
        io::Error::new(
            io::ErrorKind::InvalidData,
            Error::new(ErrorKind::Corrupt).with_detail(detail).not_applied(),
        )
    }
}
