//! How long a copy of an entry lives.

use kv_core::{Capabilities, EntryExpiry, Expiry, Power};

use crate::cli::Lifetime;
use crate::formats::RowExpiry;
use crate::output::duration;

/// The expiry a row is put with, or why this store cannot keep it.
pub(super) fn of_row(expiry: RowExpiry, wanted: Lifetime, declared: &Capabilities) -> Result<Expiry, String> {
    let (granted, remaining) = match expiry {
        _ if wanted == Lifetime::None => return Ok(Expiry::Never),
        RowExpiry::Never => return Ok(Expiry::Never),
        RowExpiry::Session => {
            return Err("it ends with a session, and that of this command ends at once".to_owned());
        }
        RowExpiry::Lease => {
            return Err("it ends with a lease, and the dump does not tell when".to_owned());
        }
        RowExpiry::Ttl { granted, remaining } => (granted, remaining),
    };
    let ttl = match wanted {
        Lifetime::Granted => granted.or(remaining),
        _ => remaining.or(granted),
    };
    let Some(ttl) = ttl else { return Ok(Expiry::Never) };
    let limits = &declared.limits.ttl;
    if !declared.has(Power::Ttl) {
        return Err("it expires, which this store cannot do".to_owned());
    }
    if ttl > limits.max {
        let (ttl, max) = (duration(ttl), duration(limits.max));
        return Err(format!("it expires after {ttl}, and this store keeps at most {max}"));
    }
    // No earlier than it would have.
    Ok(Expiry::Ttl(ttl.max(limits.min)))
}

/// The same for an entry of another store, which lives on for what is left of its time.
pub(super) fn of_entry(expiry: Option<EntryExpiry>, declared: &Capabilities) -> Result<Expiry, String> {
    let row = match expiry {
        None | Some(EntryExpiry::Never) => RowExpiry::Never,
        Some(EntryExpiry::Ttl { granted, remaining, .. }) => {
            RowExpiry::Ttl { granted: Some(granted), remaining }
        }
        Some(EntryExpiry::Session) => RowExpiry::Session,
        Some(_) => return Err("it expires in a way this kv does not know".to_owned()),
    };
    of_row(row, Lifetime::Remaining, declared)
}
