//! A job as it is stored: a line of JSON that says how it stands, and the payload as it was pushed.

use std::time::Duration;

use bytes::Bytes;
use kv_core::{Entry, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// The most bytes of the first line. What a payload may take is less by that.
pub(super) const MAX_HEAD: usize = 512;

/// The most characters of a worker's name, each of which JSON writes in six bytes at most.
pub(super) const MAX_WORKER: usize = 64;

/// How a job stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    /// How often it was claimed.
    pub(super) attempts: u32,
    /// Who has it claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) claim: Option<Claim>,
    /// It is on its way to the dead letters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) dead: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Claim {
    pub(super) by: String,
    /// How long it stays claimed after this was written.
    pub(super) ms: u64,
}

impl Claim {
    pub(super) fn new(by: &str, visibility: Duration) -> Self {
        Self { by: by.to_owned(), ms: u64::try_from(visibility.as_millis()).unwrap_or(u64::MAX) }
    }

    pub(super) fn visibility(&self) -> Duration {
        Duration::from_millis(self.ms)
    }
}

/// The stored form of a job.
pub(super) fn encode(head: &Head, payload: &[u8]) -> Result<Bytes> {
    let mut record = serde_json::to_vec(head).map_err(|error| {
        // It holds numbers and a text.
        Error::new(ErrorKind::Internal).with_source(error).not_applied()
    })?;
    record.push(b'\n');
    record.extend_from_slice(payload);
    Ok(record.into())
}

/// How a stored job stands, and its payload; `None` for what is no job.
pub(super) fn decode(entry: &Entry) -> Option<(Head, Bytes)> {
    let first_line = entry.value.iter().take(MAX_HEAD).position(|byte| *byte == b'\n')?;
    let head = serde_json::from_slice(entry.value.get(..first_line)?).ok()?;
    Some((head, entry.value.slice(first_line + 1..)))
}

#[cfg(test)]
mod tests {
    use kv_core::Version;

    use super::*;

    fn entry(value: Bytes) -> Entry {
        Entry::new("q/1".parse().unwrap(), value, Version::new(1), Version::new(1))
    }

    #[test]
    fn a_record_gives_back_what_was_put_in() {
        let claim = Some(Claim::new(&"\u{1b}".repeat(MAX_WORKER), Duration::MAX));
        for (claim, dead) in [(claim, true), (None, false)] {
            let head = Head { attempts: u32::MAX, claim, dead };
            for payload in [&b""[..], b"\n\n", b"{\"attempts\":1}\nx", b"\xff"] {
                let record = encode(&head, payload).unwrap();
                assert!(record.len() - payload.len() <= MAX_HEAD);
                assert_eq!(decode(&entry(record)), Some((head.clone(), Bytes::copy_from_slice(payload))));
            }
        }
    }

    #[test]
    fn what_is_no_job_is_none() {
        for value in ["", "x", "{}\n", "{\"attempts\":1}", "{\"attempts\":1,\"x\":2}\n", "[]\n"] {
            assert_eq!(decode(&entry(Bytes::from_static(value.as_bytes()))), None, "{value}");
        }
    }
}
