//! Reading one key, with how it expires where that is asked for.

use std::time::Duration;

use kv_core::{Consistency, Entry, EntryExpiry, Error, ErrorKind, GetOptions, Key, Result};

use crate::env::backoff::Backoff;
use crate::env::names::to_entry;
use crate::session::create::expiry_of;
use crate::session::holding::{Seen, hidden_session, look_at};
use crate::session::sessions::Sessions;

/// How often a get looks for the expiry of a key whose session ends while it looks.
const MAX_LOOKS: usize = 8;

/// Reads a key.
pub(crate) async fn get(sessions: &Sessions, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
    let deadline = sessions.env.deadline(options.timeout);
    let native = sessions.env.names.native(key);
    let mut consistency = options.consistency;
    let mut pauses = Backoff::new(Duration::from_millis(5), Duration::from_millis(200));
    for _ in 0..MAX_LOOKS {
        let Some(kv) = sessions.read_in(&native, consistency, &deadline).await? else { return Ok(None) };
        let Some(key) = sessions.env.names.entry(&kv.key, kv.flags) else { return Ok(None) };
        let entry = to_entry(key, &kv)?;
        if !options.expiry {
            return Ok(Some(entry));
        }
        let Some(session) = kv.session() else { return Ok(Some(entry.with_expiry(EntryExpiry::Never))) };
        let info = match look_at(sessions, &native, session, &deadline).await? {
            Seen::Session(info) => info,
            Seen::Hidden => return Err(hidden_session()),
            Seen::Over => {
                // The key is another now than was read. A server that lags behind may show the old one
                // for long.
                consistency = Consistency::Linearizable;
                let pause = async {
                    tokio::time::sleep(sessions.env.jitter(pauses.pause())).await;
                    Ok(())
                };
                deadline.run(pause).await?;
                continue;
            }
        };
        return Ok(Some(entry.with_expiry(expiry_of(&info)?)));
    }
    Err(Error::new(ErrorKind::Unavailable)
        .not_applied()
        .with_detail(format!("the session that has the key ended at each of {MAX_LOOKS} looks at it")))
}
