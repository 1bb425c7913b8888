//! Opening a store: by URL, by a typed configuration, or over a client that a program holds.

use std::sync::Arc;

use kv_backend::Deadline;
use kv_core::implement::Opening;
use kv_core::{Driver, Operation, Result, StoreUrl};

use crate::client::api::Api;
use crate::client::error::{BACKEND, invalid};
use crate::client::http;
use crate::client::options::ConnectOptions;
use crate::client::transport::Transport;
use crate::config::{Client, ConsulConfig};
use crate::env::names::Names;
use crate::store::ConsulStore;

/// Opens `consul://` and `consul+tls://` URLs; see [`ConsulConfig::from_url`].
pub const DRIVER: Driver = Driver::new("consul", &["consul", "consul+tls"], open);

fn open(url: StoreUrl) -> Opening {
    Box::pin(async move {
        let store = ConsulStore::connect(ConsulConfig::from_url(&url)?).await?;
        Ok(Arc::new(store) as _)
    })
}

impl ConsulStore {
    /// Opens the store and makes sure that a Consul answers.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for a configuration that cannot work; `Unavailable`, naming the endpoint, if
    /// nothing answers within the connect timeout; `Unauthenticated` for a token Consul does not know.
    pub async fn connect(config: ConsulConfig) -> Result<Self> {
        if config.hosts.is_empty() {
            return Err(invalid("Consul needs at least one host").with_backend(BACKEND));
        }
        let has_token = config.token.is_some();
        let transports = match config.client {
            Client::Reqwest => http::transports,
            #[cfg(feature = "consulrs")]
            Client::Consulrs => crate::client::consulrs::transports,
        };
        Self::open(config, has_token, transports).await
    }

    /// Opens a store over these transports and makes sure that a Consul answers, which knows the token.
    pub(crate) async fn open(
        config: ConsulConfig,
        has_token: bool,
        transports: impl FnOnce(&ConnectOptions) -> Result<Vec<Arc<dyn Transport>>>,
    ) -> Result<Self> {
        let opened = async {
            config.check()?;
            let api = Api::new(
                transports(&config.connect_options()?)?,
                config.datacenter.clone(),
                config.max_calls,
            );
            let names = Names::new(&config.namespace, config.lock_layout)?;
            let store = Self::over(api, names, &config.times());
            if let Some(tls) = &config.tls {
                tls.warn_if_unverified(BACKEND, &config.hosts.join(","));
            }
            let limit = config.timeout.min(config.connect_timeout);
            store.api().probe(&Deadline::after(limit)).await?;
            if has_token {
                store.api().check_token(&Deadline::after(config.timeout)).await?;
            }
            Ok(store)
        };
        let opened: Result<Self> = opened.await;
        opened.map_err(|error| error.with_operation(Operation::Open).with_backend(BACKEND))
    }

    /// A store over a client the program holds: its address, connections, TLS settings and token. All
    /// else is as [`connect`](Self::connect) has it. Start the configuration from
    /// [`ConsulConfig::default`].
    ///
    /// Whether the client sends its token without TLS, and what its HTTP client does with redirects, is its
    /// own affair; following one carries the token along: give it one that follows none. An answer that came by a redirect is refused.
    ///
    /// This is the one place where a foreign client is in the interface: it changes with `consulrs`, not
    /// with the version of this crate.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect), and `InvalidConfig` if the configuration names hosts, a token or
    /// anything of TLS, which the client has already.
    #[cfg(feature = "consulrs")]
    #[cfg_attr(docsrs, doc(cfg(feature = "consulrs")))]
    pub async fn over_consulrs(
        client: Arc<crate::client::consulrs::ConsulClient>,
        config: ConsulConfig,
    ) -> Result<Self> {
        if !config.hosts.is_empty() || config.tls.is_some() || config.token.is_some() {
            return Err(invalid("hosts, token and TLS are those of the consulrs client"));
        }
        let (transport, has_token) = crate::client::consulrs::over(client)?;
        Self::open(config, has_token, move |_| Ok(vec![transport])).await
    }
}
