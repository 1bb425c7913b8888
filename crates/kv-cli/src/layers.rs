//! What is put around every store that a command opens.

use std::path::PathBuf;
use std::sync::Arc;

use kv_core::Store;
use kv_layers::{Audit, LayerExt, ReadOnly};

use crate::exit::Failure;

/// The layers that the command line asks for.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    read_only: bool,
    audit: Option<Audit>,
}

impl Layers {
    /// Opens what they need.
    pub(crate) fn new(read_only: bool, audit: Option<PathBuf>) -> Result<Self, Failure> {
        let audit = audit.map(|path| {
            Audit::to_file(&path)
                .map_err(|error| Failure::io(format!("cannot write the audit log {path:?}"), error))
        });
        Ok(Self { read_only, audit: audit.transpose()? })
    }

    /// Whether there are none.
    pub(crate) fn is_bare(&self) -> bool {
        !self.read_only && self.audit.is_none()
    }

    /// Whether every write is refused.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// This store with them; read-only also where its context says so.
    pub(crate) fn around(&self, store: Arc<dyn Store>, read_only: bool) -> Arc<dyn Store> {
        let store: Arc<dyn Store> =
            if self.read_only || read_only { Arc::new(store.layered(ReadOnly::default())) } else { store };
        match &self.audit {
            // Outermost, so that what was refused is in the log too.
            Some(audit) => Arc::new(store.layered(audit.clone())),
            None => store,
        }
    }
}
