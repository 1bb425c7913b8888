//! What a leader proclaims, as it is stored: the term in decimal digits, a line feed, the value.

use kv_core::{Bytes, Entry, FencingToken};

/// What was proclaimed, and in which term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    pub(super) term: FencingToken,
    pub(super) value: Bytes,
}

impl Announcement {
    pub(super) fn encode(term: FencingToken, value: &Bytes) -> Bytes {
        [format!("{}\n", term.get()).as_bytes(), value].concat().into()
    }

    /// `None` for a value that no leader has written.
    pub(super) fn decode(stored: &Bytes) -> Option<Self> {
        let end = stored.iter().position(|byte| *byte == b'\n')?;
        let digits = std::str::from_utf8(&stored[..end]).ok()?;
        // `parse` would take a sign too.
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let term = FencingToken::new(digits.parse().ok().filter(|_| is_number)?);
        Some(Self { term, value: stored.slice(end + 1..) })
    }
}

/// What the entry under an election's key announces.
pub(super) fn announced(entry: Option<&Entry>) -> Option<Announcement> {
    Announcement::decode(&entry?.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_round_trip_and_nothing_else_is_one() {
        for value in [&b""[..], b"a", b"1\n2\n", b"\xff\x00"] {
            let (term, value) = (FencingToken::new(u64::MAX), Bytes::copy_from_slice(value));
            let stored = Announcement::encode(term, &value);
            assert_eq!(Announcement::decode(&stored), Some(Announcement { term, value }));
        }
        for foreign in ["", "12", "\nx", "+1\nx", "-1\nx", " 1\nx", "99999999999999999999\nx", "a\nb"] {
            assert_eq!(Announcement::decode(&Bytes::from(foreign)), None, "{foreign:?}");
        }
    }
}
