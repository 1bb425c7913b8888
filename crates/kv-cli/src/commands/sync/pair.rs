//! The two stores.

use std::sync::Arc;
use std::time::Duration;

use kv_core::{Operation, Prefix, Store, StoreUrl};

use super::steps::Steps;
use crate::exit::Failure;
use crate::session::{self, Session};
use crate::{commands, server};

/// Two stores and what of them is compared.
pub(super) struct Pair {
    pub(super) source: Arc<dyn Store>,
    pub(super) destination: Arc<dyn Store>,
    prefix: Prefix,
    pub(super) timeout: Option<Duration>,
}

impl Pair {
    /// Opens both, which must lie `apart` where one is to be changed.
    pub(super) async fn open(
        session: &Session,
        source: String,
        destination: String,
        prefix: &str,
        apart: bool,
    ) -> Result<Self, Failure> {
        let prefix = commands::prefix(prefix, Operation::List)?;
        let (source, destination) = (session::complete(source)?, session::complete(destination)?);
        if apart && server::overlap(&StoreUrl::parse(&source)?, &StoreUrl::parse(&destination)?, &prefix) {
            return Err(Failure::Usage(
                "the source and the destination lie within each other: a copy would be copied again"
                    .to_owned(),
            ));
        }
        let source = session.other(&source).await?;
        let destination = session.other(&destination).await?;
        Ok(Self { source, destination, prefix, timeout: session.timeout() })
    }

    /// Begins to compare.
    pub(super) async fn steps(&self) -> Result<Steps, Failure> {
        Steps::begin(&*self.source, &*self.destination, &self.prefix, self.timeout).await
    }

    /// Why the destination cannot have this value, as far as its size tells.
    pub(super) fn too_large(&self, bytes: usize) -> Option<String> {
        let limit = self.destination.capabilities().limits.max_value;
        (bytes > limit).then(|| format!("too large: {bytes} bytes, the limit is {limit}"))
    }
}
