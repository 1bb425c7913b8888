//! The stores that are shared under a name in this process.

use std::collections::BTreeMap;
use std::sync::Arc;

use kv_backend::{Clock, TokioClock};
use kv_core::{Error, Operation, Result, Version};
use parking_lot::Mutex;

use crate::config::MemConfig;
use crate::state::Database;

/// A store that somebody has open under its name.
struct Named {
    database: Arc<Database>,
    history: usize,
    handles: usize,
}

static NAMES: Mutex<BTreeMap<String, Named>> = Mutex::new(BTreeMap::new());

/// A store that nobody else sees, whose next version comes after `newest`.
pub(crate) fn fresh(config: &MemConfig, newest: Version) -> Arc<Database> {
    let clock = config.clock.clone().unwrap_or_else(|| Arc::new(TokioClock::new()) as Arc<dyn Clock>);
    Database::new(config.history.unwrap_or(MemConfig::DEFAULT_HISTORY), clock, newest)
}

/// The store a configuration asks for: a fresh one, or the one of its name.
///
/// A name must be given back with [`release`].
pub(crate) fn acquire(config: &MemConfig) -> Result<Arc<Database>> {
    let history = config.history.unwrap_or(MemConfig::DEFAULT_HISTORY);
    let Some(name) = &config.name else { return Ok(fresh(config, Version::ZERO)) };
    let mut names = NAMES.lock();
    let named = names.entry(name.clone()).or_insert_with(|| Named {
        database: fresh(config, Version::ZERO),
        history,
        handles: 0,
    });
    let differs = |what: &str| {
        let reason = format!("the memory store {name:?} is open with another {what}");
        Err(Error::invalid_config(reason).with_operation(Operation::Open))
    };
    if config.history.is_some_and(|history| history != named.history) {
        return differs(&format!("history, of {} changes", named.history));
    }
    if config.clock.as_ref().is_some_and(|clock| !Arc::ptr_eq(clock, &named.database.clock)) {
        return differs("clock");
    }
    named.handles += 1;
    Ok(Arc::clone(&named.database))
}

/// Gives a name back. The data goes with the last handle.
pub(crate) fn release(name: &str) {
    let mut names = NAMES.lock();
    let gone = match names.get_mut(name) {
        Some(named) => {
            named.handles -= 1;
            if named.handles == 0 { names.remove(name) } else { None }
        }
        None => None,
    };
    drop(names);
    drop(gone);
}
