//! Drivers: how a URL becomes a store.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Operation, Result};
use crate::store::Store;
use crate::url::StoreUrl;

/// What a driver's open function returns.
pub type Opening = Pin<Box<dyn Future<Output = Result<Arc<dyn Store>>> + Send>>;

/// How one backend is opened. Each backend crate has one as `pub const DRIVER`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Driver {
    /// The backend's name, as in errors and capabilities.
    pub name: &'static str,
    /// The URL schemes it takes.
    pub schemes: &'static [&'static str],
    /// Opens a store. Unknown and half-given parameters are errors.
    pub open: fn(StoreUrl) -> Opening,
}

impl Driver {
    /// A driver of this name for these URL schemes.
    #[must_use]
    pub const fn new(
        name: &'static str,
        schemes: &'static [&'static str],
        open: fn(StoreUrl) -> Opening,
    ) -> Self {
        Self { name, schemes, open }
    }
}

/// The drivers an application knows. A plain value: there is no global one.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    drivers: BTreeMap<&'static str, Driver>,
    advice: BTreeMap<&'static str, String>,
}

impl Registry {
    /// A registry that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a driver under all its schemes.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if one of the schemes is taken; then nothing is added.
    pub fn register(&mut self, driver: Driver) -> Result<()> {
        if let Some(taken) = driver.schemes.iter().find(|scheme| self.drivers.contains_key(*scheme)) {
            return Err(Error::invalid_config(format!("the scheme {taken:?} has a driver already")));
        }
        for scheme in driver.schemes {
            self.drivers.insert(scheme, driver);
        }
        Ok(())
    }

    /// Says what to do for a scheme that could be known and is not, such as a feature to switch on.
    pub fn advise(&mut self, scheme: &'static str, advice: impl Into<String>) {
        self.advice.insert(scheme, advice.into());
    }

    /// The schemes with a driver, in order.
    pub fn schemes(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.drivers.keys().copied()
    }

    /// The driver of a scheme.
    #[must_use]
    pub fn driver(&self, scheme: &str) -> Option<&Driver> {
        self.drivers.get(scheme)
    }

    /// Opens the store a URL names.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for a bad URL; `UnknownScheme`, listing the known ones and what would add the
    /// one asked for; whatever the driver answers.
    pub async fn open(&self, url: &str) -> Result<Arc<dyn Store>> {
        let url = StoreUrl::parse(url)?;
        let Some(driver) = self.drivers.get(url.scheme()) else {
            let error = Error::new(ErrorKind::UnknownScheme {
                scheme: url.scheme().to_owned(),
                known: self.schemes().map(str::to_owned).collect(),
            })
            .with_operation(Operation::Open);
            return Err(match self.advice.get(url.scheme()) {
                Some(advice) => error.with_detail(advice.clone()),
                None => error,
            });
        };
        (driver.open)(url)
            .await
            .map_err(|error| error.with_operation(Operation::Open).with_backend(driver.name))
    }
}
