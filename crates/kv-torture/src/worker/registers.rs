//! Random reads, puts and deletes under every condition, on a few keys that all processes share. New
//! keys are begun every few seconds, so that each key's history is short enough to check.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use kv_any::kv_core::{Key, Power};

use super::caller::{Caller, Condition};
use super::work::Work;
use crate::history::{Answer, Life, Seen, now};

const KEYS: u64 = 5;
const EPOCH: u64 = 15_000_000_000;

pub(super) async fn run(work: Arc<Work>, caller: Caller, task: u64) -> Result<()> {
    let mut random = work.random(caller.client(), task);
    let stale_reads = caller.store().capabilities().has(Power::StaleReads);
    let mut known: HashMap<String, Seen> = HashMap::new();
    while work.goes_on() {
        let epoch = now().saturating_sub(work.args.origin) / EPOCH;
        // A few names below another, so that a key and what is below it are both used.
        let slot = random.u64(..KEYS);
        let key: Key = if slot == 0 {
            format!("reg/{epoch}/1/below").parse()?
        } else {
            format!("reg/{epoch}/{slot}").parse()?
        };
        let name = key.to_string();
        let condition = match (random.u8(..6), known.get(&name)) {
            (0, _) => Condition::Absent,
            (1, _) => Condition::Present,
            (2 | 3, Some(seen)) => Condition::At(*seen),
            (4, Some(seen)) => Condition::Value(*seen),
            _ => Condition::Any,
        };
        match random.u8(..10) {
            0..=3 => {
                if let Some(seen) = caller.get(&key, false).await? {
                    known.insert(name, seen);
                }
            }
            4 if stale_reads => {
                if let Some(seen) = caller.get(&key, true).await? {
                    known.insert(name, seen);
                }
            }
            5 => {
                let deleted = caller.delete(&key, condition, random.bool()).await?;
                if matches!(deleted, Answer::Deleted { .. }) {
                    known.remove(&name);
                }
            }
            _ => {
                caller.put(&key, condition, None, Life::Permanent).await?;
            }
        }
        tokio::time::sleep(Duration::from_millis(random.u64(5..60))).await;
    }
    Ok(())
}
