//! Notices when the whole process did nothing for a while: it was stopped, or the machine was busy.

use std::sync::Arc;
use std::time::Duration;

use super::work::Work;
use crate::history::{Client, Note, now};

const TICK: Duration = Duration::from_millis(25);

/// From this long on a pause is noted.
const STALL: u64 = 300_000_000;

pub(super) fn watch(work: &Arc<Work>) {
    let work = Arc::downgrade(work);
    std::thread::spawn(move || {
        let mut since = now();
        while let Some(work) = work.upgrade() {
            let at = now();
            if at - since > STALL {
                let client = Client { process: work.args.process, handle: 0 };
                // A history that cannot be written fails the calls that are noted in it.
                let _ = work.recorder.note(client, at, Note::Stalled { since });
            }
            since = at;
            drop(work);
            std::thread::sleep(TICK);
        }
    });
}
