//! A layer that makes calls fail, for tests.

use std::time::Duration;

use kv_core::{ErrorKind, Operation, Result};
use parking_lot::Mutex;

use crate::policy::{Call, Next, Policy};

/// Makes calls fail or take longer, by chance from a seed: the same calls in the same order meet the same
/// faults again. For tests of programs.
///
/// # Examples
///
/// ```
/// use kv_layers::kv_core::{Applied, Operation, Result, StoreExt};
/// use kv_layers::{Faults, LayerExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// // Every put is applied, and its answer is lost.
/// let store = kv_mem::MemStore::open(Default::default())?
///     .layered(Faults::seeded(1).lose_answer(Operation::Put, 1.0));
/// let error = store.put("a", "x").await.unwrap_err();
/// assert_eq!(error.applied(), Applied::Unknown);
/// assert!(store.exists("a").await?);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Faults {
    rules: Vec<Rule>,
    random: Mutex<fastrand::Rng>,
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    operation: Operation,
    chance: f64,
    fault: Fault,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Refuse,
    LoseAnswer,
    Delay(Duration),
}

impl Faults {
    /// No faults yet; what is added happens by chance from this seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { rules: Vec::new(), random: Mutex::new(fastrand::Rng::with_seed(seed)) }
    }

    /// The same, this part (0 to 1) of the calls of an operation failing with `Unavailable` before they
    /// are made: surely not applied.
    #[must_use]
    pub fn refuse(self, operation: Operation, chance: f64) -> Self {
        self.with(operation, chance, Fault::Refuse)
    }

    /// The same, this part (0 to 1) of the calls of an operation being made and then failing with
    /// `Unavailable`: a write's outcome is unknown to the caller.
    #[must_use]
    pub fn lose_answer(self, operation: Operation, chance: f64) -> Self {
        self.with(operation, chance, Fault::LoseAnswer)
    }

    /// The same, this part (0 to 1) of the calls of an operation being made this much later.
    #[must_use]
    pub fn delay(self, operation: Operation, chance: f64, delay: Duration) -> Self {
        self.with(operation, chance, Fault::Delay(delay))
    }

    fn with(mut self, operation: Operation, chance: f64, fault: Fault) -> Self {
        self.rules.push(Rule { operation, chance, fault });
        self
    }

    /// The faults this call meets.
    fn drawn(&self, operation: Operation) -> Vec<Fault> {
        let mut random = self.random.lock();
        let rules = self.rules.iter().filter(|rule| rule.operation == operation);
        rules.filter(|rule| random.f64() < rule.chance).map(|rule| rule.fault).collect()
    }
}

impl Policy for Faults {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        let fault = || call.error(ErrorKind::Unavailable).with_detail("a fault that was asked for");
        let mut loses_answer = false;
        for drawn in self.drawn(call.operation) {
            match drawn {
                Fault::Refuse => return Err(fault().not_applied()),
                Fault::LoseAnswer => loses_answer = true,
                Fault::Delay(delay) => tokio::time::sleep(delay).await,
            }
        }
        let answer = next().await;
        // A refusal is not hidden: the caller's write surely was not applied then.
        if loses_answer && answer.is_ok() { Err(fault()) } else { answer }
    }
}
