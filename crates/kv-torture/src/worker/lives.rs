//! A session key of each handle, and keys with a time to live: read while they must be there.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kv_any::kv_core::{Key, Power, SessionState};

use super::caller::{Caller, Condition};
use super::work::Work;
use crate::history::{Answer, Life, Note, now};

pub(super) async fn run(work: Arc<Work>, caller: Caller, task: u64) -> Result<()> {
    let mut random = work.random(caller.client(), task);
    let capabilities = caller.store().capabilities();
    let sessions = capabilities.has(Power::SessionKeys);
    let shortest = capabilities.has(Power::Ttl).then_some(capabilities.limits.ttl.min);
    let client = caller.client();
    let session_key: Key = format!("sess/{}/{}", client.process, client.handle).parse()?;
    let mut has_session_key = false;
    let mut round = 0u64;
    while work.goes_on() {
        round += 1;
        if sessions {
            let held = caller.store().session() == SessionState::Held;
            caller.recorder().note(client, now(), Note::Session { handle: client.handle, held })?;
            if !held {
                has_session_key = false;
            }
            if has_session_key {
                has_session_key = caller.get(&session_key, false).await?.is_some();
            } else {
                let put = caller.put(&session_key, Condition::Any, None, Life::Session).await?;
                has_session_key = matches!(put, Answer::Put { .. });
            }
        }
        if let Some(shortest) = shortest.filter(|_| round % 8 == 1) {
            let ttl = shortest.max(Duration::from_secs(2)) + Duration::from_millis(random.u64(..1000));
            let key: Key = format!("ttl/{}-{}-{round}", client.process, client.handle).parse()?;
            let life = Life::Ttl(u64::try_from(ttl.as_millis())?);
            caller.put(&key, Condition::Any, None, life).await?;
            tokio::time::sleep(ttl.mul_f64(random.f64())).await;
            caller.get(&key, false).await?;
        }
        tokio::time::sleep(Duration::from_millis(random.u64(200..600))).await;
    }
    if sessions {
        // The session's last word, after which the checker judges nothing.
        let held = caller.store().session() == SessionState::Held;
        caller.recorder().note(client, now(), Note::Session { handle: client.handle, held })?;
    }
    Ok(())
}
