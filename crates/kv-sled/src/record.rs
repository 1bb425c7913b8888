//! What is on disk: the key spaces of the one tree, and the bytes of each kind of record.
//!
//! Every record ends in a seal, a hash of its key and content. Seals tell a damaged record from a
//! whole one, and their sum, kept in [`Meta`], tells whether every record that should be there is.

use std::time::Duration;

use bytes::Bytes;
use kv_backend::Timestamp;
use kv_core::{DeleteCause, EntryExpiry, Error, ErrorKind, Result};
use twox_hash::XxHash3_64;

/// Written in front of every record. A reader that meets another one refuses it.
pub(crate) const FORMAT: u8 = 1;

/// Values above this are stored in chunks of their own, which history shares instead of copying.
pub(crate) const INLINE_MAX: usize = 1024;

/// Small enough that a leaf of the tree always fits into the log: what does not, the engine would
/// put into a file of its own and never sync it.
pub(crate) const CHUNK: usize = 16 * 1024;

/// The key of the one [`Meta`] record.
pub(crate) const META: &[u8] = b"m";

/// The key spaces: the first byte of every key.
pub(crate) mod space {
    /// Chunk of a value: version it was put with, number.
    pub(crate) const CHUNK: u8 = b'c';
    /// Entry: native name.
    pub(crate) const DATA: u8 = b'd';
    /// Deleted subtree: version of its last deletion.
    pub(crate) const DOOMED: u8 = b't';
    /// Change: version.
    pub(crate) const HISTORY: u8 = b'h';
    /// Session key: session, version of the entry.
    pub(crate) const SESSION: u8 = b's';
    /// Deadline of an entry: time, version of the entry.
    pub(crate) const EXPIRY: u8 = b'x';
}

/// The key of an entry.
pub(crate) fn data_key(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(space::DATA);
    key.extend_from_slice(name.as_bytes());
    key
}

/// A key made of a space and a number.
pub(crate) fn number_key(space: u8, number: u64) -> Vec<u8> {
    let mut key = vec![space];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// A key made of a space and two numbers.
pub(crate) fn pair_key(space: u8, first: u64, second: u64) -> Vec<u8> {
    let mut key = number_key(space, first);
    key.extend_from_slice(&second.to_be_bytes());
    key
}

/// The number at `at` in a key made by [`number_key`] or [`pair_key`].
pub(crate) fn number_in(key: &[u8], at: usize) -> Option<u64> {
    let bytes = key.get(1 + 8 * at..9 + 8 * at)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// The hash that seals a record under its key.
fn seal(key: &[u8], content: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(key), content)
}

/// The bytes of a record: its content and its seal.
pub(crate) fn sealed(mut content: Vec<u8>, stamp: Stamp) -> Vec<u8> {
    content.extend_from_slice(&stamp.seal.to_le_bytes());
    content
}

/// What of a record counts in [`Meta`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) seal: u64,
    /// The length of the content.
    pub(crate) len: u64,
}

impl Stamp {
    pub(crate) fn of(key: &[u8], content: &[u8]) -> Self {
        Self { seal: seal(key, content), len: content.len() as u64 }
    }
}

/// The content of a record, and its stamp, if the seal is right.
pub(crate) fn unseal<'a>(key: &[u8], bytes: &'a [u8]) -> Result<(&'a [u8], Stamp)> {
    let (content, stored) = bytes.split_last_chunk::<8>().ok_or_else(|| corrupt("a record is cut off"))?;
    let stamp = Stamp::of(key, content);
    if stamp.seal != u64::from_le_bytes(*stored) {
        return Err(corrupt("a record does not match its checksum"));
    }
    Ok((content, stamp))
}

/// A failure of what is stored, not of the request.
pub(crate) fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt).with_detail(what)
}

/// When an entry goes by itself, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredExpiry {
    Never,
    Ttl {
        /// In milliseconds of store time.
        deadline: u64,
        /// In milliseconds.
        granted: u64,
    },
    Session(u64),
}

impl StoredExpiry {
    /// Whether it is over. Asks for the time only if it matters.
    pub(crate) fn is_over(self, now: impl FnOnce() -> Timestamp) -> bool {
        matches!(self, Self::Ttl { deadline, .. } if Timestamp::from_millis(deadline) <= now())
    }

    /// As it is told at that time.
    pub(crate) fn told_at(self, now: Timestamp) -> EntryExpiry {
        match self {
            Self::Never => EntryExpiry::Never,
            Self::Ttl { deadline, granted } => {
                let granted = Duration::from_millis(granted);
                // The stored deadline is rounded up to a millisecond.
                EntryExpiry::ttl(granted, Some(Timestamp::from_millis(deadline).since(now).min(granted)))
            }
            Self::Session(_) => EntryExpiry::Session,
        }
    }
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Inline(Bytes),
    /// In chunks under the record's version; `digest` is the sum of their seals.
    Chunked {
        len: u64,
        digest: u64,
    },
}

impl Value {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Chunked { len, .. } => usize::try_from(*len).unwrap_or(usize::MAX),
        }
    }

    /// How many records it takes besides the one it belongs to.
    pub(crate) fn chunks(&self) -> u64 {
        match self {
            Self::Inline(_) => 0,
            Self::Chunked { len, .. } => len.div_ceil(CHUNK as u64),
        }
    }
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// How many bytes of the native name are the namespace.
    pub(crate) namespace: u16,
    pub(crate) version: u64,
    pub(crate) created: u64,
    pub(crate) expiry: StoredExpiry,
    pub(crate) value: Value,
}

impl Record {
    /// Whether it has expired and is about to be deleted: then nobody sees it any more. Asks for the time
    /// only if it matters.
    pub(crate) fn is_over(&self, now: impl FnOnce() -> Timestamp) -> bool {
        self.expiry.is_over(now)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + INLINE_MAX.min(self.value.len()));
        out.push(FORMAT);
        self.encode_into(&mut out);
        out
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.namespace.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.created.to_le_bytes());
        match self.expiry {
            StoredExpiry::Never => out.push(0),
            StoredExpiry::Ttl { deadline, granted } => {
                out.push(1);
                out.extend_from_slice(&deadline.to_le_bytes());
                out.extend_from_slice(&granted.to_le_bytes());
            }
            StoredExpiry::Session(session) => {
                out.push(2);
                out.extend_from_slice(&session.to_le_bytes());
            }
        }
        match &self.value {
            Value::Inline(bytes) => {
                out.push(0);
                put_bytes(out, bytes);
            }
            Value::Chunked { len, digest } => {
                out.push(1);
                out.extend_from_slice(&len.to_le_bytes());
                out.extend_from_slice(&digest.to_le_bytes());
            }
        }
    }

    pub(crate) fn decode(content: &[u8]) -> Result<Self> {
        let mut reader = Reader::begin(content)?;
        let record = Self::decode_from(&mut reader)?;
        reader.end()?;
        Ok(record)
    }

    fn decode_from(reader: &mut Reader<'_>) -> Result<Self> {
        let namespace = u16::from_le_bytes(reader.array()?);
        let version = reader.number()?;
        let created = reader.number()?;
        let expiry = match reader.byte()? {
            0 => StoredExpiry::Never,
            1 => StoredExpiry::Ttl { deadline: reader.number()?, granted: reader.number()? },
            2 => StoredExpiry::Session(reader.number()?),
            _ => return Err(corrupt("an entry has an unknown expiry")),
        };
        let value = match reader.byte()? {
            0 => Value::Inline(Bytes::copy_from_slice(reader.bytes()?)),
            1 => Value::Chunked { len: reader.number()?, digest: reader.number()? },
            _ => return Err(corrupt("an entry has an unknown kind of value")),
        };
        Ok(Self { namespace, version, created, expiry, value })
    }
}

/// What a change left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Entry(Record),
    Nothing(DeleteCause),
}

/// A change, under the version it was made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Native.
    pub(crate) name: String,
    /// What was there before. Its value lives until this event is let go.
    pub(crate) before: Option<Record>,
    pub(crate) left: Left,
}

impl Event {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        put_bytes(&mut out, self.name.as_bytes());
        match &self.before {
            None => out.push(0),
            Some(record) => {
                out.push(1);
                record.encode_into(&mut out);
            }
        }
        match &self.left {
            Left::Entry(record) => {
                out.push(0);
                record.encode_into(&mut out);
            }
            Left::Nothing(DeleteCause::Expired) => out.push(2),
            Left::Nothing(_) => out.push(1),
        }
        out
    }

    pub(crate) fn decode(content: &[u8]) -> Result<Self> {
        let mut reader = Reader::begin(content)?;
        let name = String::from_utf8(reader.bytes()?.to_vec())
            .map_err(|_| corrupt("a change names a key that is not text"))?;
        let before = match reader.byte()? {
            0 => None,
            1 => Some(Record::decode_from(&mut reader)?),
            _ => return Err(corrupt("a change has an unknown form")),
        };
        let left = match reader.byte()? {
            0 => Left::Entry(Record::decode_from(&mut reader)?),
            1 => Left::Nothing(DeleteCause::Deleted),
            2 => Left::Nothing(DeleteCause::Expired),
            _ => return Err(corrupt("a change is of an unknown kind")),
        };
        reader.end()?;
        Ok(Self { name, before, left })
    }

    /// What it counts against the bound on the bytes of history.
    pub(crate) fn weight(&self) -> u64 {
        let before = self.before.as_ref().map_or(0, |record| record.value.len());
        let left = match &self.left {
            Left::Entry(record) => record.value.len(),
            Left::Nothing(_) => 0,
        };
        (self.name.len() + before + left + 128) as u64
    }
}

/// What the store knows of itself. Changes in the same step as the data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Of the last change.
    pub(crate) version: u64,
    /// No number above it was ever given out, as version or as token.
    pub(crate) ceiling: u64,
    /// Changes up to this one are gone from history.
    pub(crate) floor: u64,
    /// Changes up to this one are no history any more, even where they are still there.
    pub(crate) horizon: u64,
    /// How many records there are besides this one.
    pub(crate) records: u64,
    /// The sum of their seals.
    pub(crate) digest: u64,
    /// The sum of their sizes, without keys.
    pub(crate) bytes: u64,
    /// Store time of the last change, in milliseconds.
    pub(crate) time: u64,
    /// How many changes history holds, and what they weigh.
    pub(crate) events: u64,
    pub(crate) weight: u64,
}

impl Meta {
    /// The oldest version a watch can begin after, and a list can be read at.
    pub(crate) fn oldest(&self) -> u64 {
        self.floor.max(self.horizon)
    }

    fn fields(&self) -> [u64; 10] {
        [
            self.version,
            self.ceiling,
            self.floor,
            self.horizon,
            self.records,
            self.digest,
            self.bytes,
            self.time,
            self.events,
            self.weight,
        ]
    }

    /// Sealed.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut content = vec![FORMAT];
        for field in self.fields() {
            content.extend_from_slice(&field.to_le_bytes());
        }
        let stamp = Stamp::of(META, &content);
        sealed(content, stamp)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::begin(unseal(META, bytes)?.0)?;
        let meta = Self {
            version: reader.number()?,
            ceiling: reader.number()?,
            floor: reader.number()?,
            horizon: reader.number()?,
            records: reader.number()?,
            digest: reader.number()?,
            bytes: reader.number()?,
            time: reader.number()?,
            events: reader.number()?,
            weight: reader.number()?,
        };
        reader.end()?;
        Ok(meta)
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Takes a record apart; what is missing is an error, never a panic.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn begin(content: &'a [u8]) -> Result<Self> {
        let mut reader = Self(content);
        match reader.byte()? {
            FORMAT => Ok(reader),
            other => Err(corrupt(format!(
                "a record has format {other} and this version of kv-sled knows {FORMAT}: was it written by a later one?"
            ))),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(|| corrupt("a record is too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| corrupt("a record is too short"))
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn number(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.number()?;
        self.take(usize::try_from(len).map_err(|_| corrupt("a record is too short"))?)
    }

    fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(corrupt("a record is too long")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: Value, expiry: StoredExpiry) -> Record {
        Record { namespace: 3, version: 7, created: 5, expiry, value }
    }

    fn records() -> Vec<Record> {
        let inline = Value::Inline(Bytes::from_static(b"value"));
        vec![
            record(inline.clone(), StoredExpiry::Never),
            record(Value::Inline(Bytes::new()), StoredExpiry::Ttl { deadline: 10, granted: 3 }),
            record(Value::Chunked { len: 40_000, digest: 9 }, StoredExpiry::Session(4)),
        ]
    }

    #[test]
    fn records_come_back_as_they_were() {
        for record in records() {
            assert_eq!(Record::decode(&record.encode()).unwrap(), record);
            for left in [
                Left::Entry(record.clone()),
                Left::Nothing(DeleteCause::Deleted),
                Left::Nothing(DeleteCause::Expired),
            ] {
                let event = Event { name: "app/ü".to_owned(), before: Some(record.clone()), left };
                assert_eq!(Event::decode(&event.encode()).unwrap(), event);
            }
        }
        let meta = Meta {
            version: 1,
            ceiling: 2,
            floor: 3,
            horizon: 10,
            records: 4,
            digest: 5,
            bytes: 9,
            time: 6,
            events: 7,
            weight: 8,
        };
        assert_eq!(Meta::decode(&meta.encode()).unwrap(), meta);
    }

    #[test]
    fn a_record_cut_anywhere_is_refused() {
        for record in records() {
            let whole = record.encode();
            for len in 0..whole.len() {
                assert!(Record::decode(&whole[..len]).is_err(), "{len} of {}", whole.len());
            }
            let mut longer = whole.clone();
            longer.push(0);
            assert!(Record::decode(&longer).is_err());
        }
    }

    #[test]
    fn a_seal_notices_every_flipped_bit_and_a_wrong_key() {
        let content = records()[0].encode();
        let whole = sealed(content.clone(), Stamp::of(b"dkey", &content));
        assert_eq!(unseal(b"dkey", &whole).unwrap().0, content);
        assert!(unseal(b"dkez", &whole).is_err());
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(b"dkey", &damaged).is_err(), "bit {bit}");
        }
        for len in 0..whole.len() {
            assert!(unseal(b"dkey", &whole[..len]).is_err());
        }
    }

    #[test]
    fn an_unknown_format_says_so() {
        let mut content = records()[0].encode();
        content[0] = 9;
        let error = Record::decode(&content).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Corrupt);
        assert!(error.to_string().contains("format 9"), "{error}");
    }

    #[test]
    fn number_keys_are_in_the_order_of_their_numbers() {
        assert!(number_key(b'h', 255) < number_key(b'h', 256));
        assert!(pair_key(b'x', 1, u64::MAX) < pair_key(b'x', 2, 0));
        let key = pair_key(b'x', 12, 34);
        assert_eq!((number_in(&key, 0), number_in(&key, 1), number_in(&key, 2)), (Some(12), Some(34), None));
    }
}
