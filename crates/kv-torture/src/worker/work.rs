//! What all tasks of a process know: what it was told, where its history goes, and when to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::history::{Client, Recorder};

/// What a process is told on its command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The store
    #[arg(long)]
    pub url: String,
    /// The number of the process
    #[arg(long)]
    pub process: u32,
    /// How many handles it opens
    #[arg(long)]
    pub handles: u32,
    /// The seed of its choices
    #[arg(long)]
    pub seed: u64,
    /// When the campaign began, by the machine's clock
    #[arg(long)]
    pub origin: u64,
    /// How many keys hold the units
    #[arg(long)]
    pub unit_keys: u64,
    /// Where its history goes
    #[arg(long)]
    pub history: PathBuf,
}

/// What all tasks of a process know.
pub(super) struct Work {
    pub(super) args: Args,
    pub(super) recorder: Arc<Recorder>,
    pub(super) stop: AtomicBool,
    /// The watches stand until this.
    pub(super) settled: AtomicBool,
}

impl Work {
    pub(super) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Random numbers of one task: the same seed gives the same choices.
    pub(super) fn random(&self, client: Client, task: u64) -> fastrand::Rng {
        let mix =
            self.args.seed ^ (u64::from(client.process) << 40) ^ (u64::from(client.handle) << 32) ^ task;
        fastrand::Rng::with_seed(mix)
    }
}
