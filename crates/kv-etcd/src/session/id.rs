//! Lease ids. That of a session says so, because nothing else does: to etcd all leases are alike, and a
//! handle that reads another's session key must tell it from one with a time to live.
//!
//! The id of a session is the letters `kv`, 32 random bits and a checksum of both. Native tools take it
//! like any other. Of all other ids, those that servers choose included, one in 2^31 passes for it.

/// What a lease is granted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// One key with a time to live, or one place in the queue for a lock.
    Own,
    /// The session of a handle. Its id says so, to every handle.
    Session,
}

const MARK: u64 = 0x6b76;
const RANDOM_BITS: u32 = 32;
const SUM_BITS: u32 = 16;

/// An id that nobody has, made of these random bits: never 0, never negative.
pub(super) fn new(purpose: Purpose, random: u64) -> i64 {
    let id = match purpose {
        Purpose::Session => marked(random >> (64 - RANDOM_BITS)),
        Purpose::Own => {
            let id = (random >> 1).max(1);
            if is_marked(id) { id ^ 1 } else { id }
        }
    };
    i64::try_from(id).unwrap_or(1)
}

/// Whether it is the lease of a session.
pub(crate) fn is_session(lease: i64) -> bool {
    u64::try_from(lease).is_ok_and(is_marked)
}

fn marked(random: u64) -> u64 {
    let head = MARK << RANDOM_BITS | random;
    head << SUM_BITS | checksum(head)
}

fn is_marked(id: u64) -> bool {
    let head = id >> SUM_BITS;
    head >> RANDOM_BITS == MARK && id == (head << SUM_BITS | checksum(head))
}

/// Every bit of the number changes about half of those of its checksum (the finalizer of MurmurHash3).
fn checksum(number: u64) -> u64 {
    let mut sum = number;
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        sum = (sum ^ sum >> 33).wrapping_mul(factor);
    }
    sum >> (64 - SUM_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_session_is_told_from_all_others() {
        let mut random = 1_u64;
        for _ in 0..10_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let session = new(Purpose::Session, random);
            assert!(session > 0 && is_session(session));
            assert!(!is_session(session + 1) && !is_session(session ^ (1 << 40)));
            let own = new(Purpose::Own, random);
            assert!(own > 0 && !is_session(own));
        }
        // Even of random bits that would make one.
        let session = u64::try_from(new(Purpose::Session, random)).unwrap();
        assert!(!is_session(new(Purpose::Own, session << 1)));
        assert!(!is_session(0) && !is_session(-1) && !is_session(i64::MIN));
        assert_eq!((new(Purpose::Own, 0), new(Purpose::Own, u64::MAX)), (1, i64::MAX));
    }

    #[test]
    fn ids_of_sessions_stay_what_they_are() {
        // Handles of other versions read them too.
        assert_eq!(new(Purpose::Session, 0), 0x6b76_0000_0000_6a72);
    }
}
