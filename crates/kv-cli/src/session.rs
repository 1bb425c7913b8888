//! What every command has: the store it is about, opened when it is needed, and how to answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etcetera::BaseStrategy;
use kv_core::{Driver, Error, ErrorKind, Operation, Registry, Store, StoreExt, StoreUrl};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::sync::OnceCell;

use crate::cli::Global;
use crate::contexts::Named;
use crate::exit::Failure;
use crate::layers::Layers;
use crate::native;
use crate::output::{Format, duration, say};
use crate::server;

/// How long a command waits for a directory another process has, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long closing a store may take at most, where no shorter deadline was asked for.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a bounded wait may take before it is told what for.
const UNTOLD: Duration = Duration::from_secs(1);
/// How often it is tried meanwhile.
const EVERY: Duration = Duration::from_millis(50);

/// How long to wait for a directory another process has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    /// As long as any request may take.
    Timeout,
    /// This long.
    UpTo(Duration),
    /// Without limit.
    Forever,
}

/// One run of the command.
pub(crate) struct Session {
    registry: Registry,
    named: Named,
    layers: Layers,
    timeout: Option<Duration>,
    output: Option<Format>,
    store: OnceCell<Arc<dyn Store>>,
    others: Mutex<Vec<Arc<dyn Store>>>,
}

impl Session {
    pub(crate) fn new(registry: Registry, global: Global) -> Result<Self, Failure> {
        let Global { store, timeout, output, read_only, audit, verbose: _ } = global;
        let named = match store {
            // Most likely a variable that was meant to be set: another store would be a surprise.
            Some(url) if url.trim().is_empty() => {
                return Err(Failure::Usage(
                    "the store's URL is empty: --store or KV_STORE is given and names none; without either kv \
                     uses the store in your data directory"
                        .to_owned(),
                ));
            }
            Some(argument) => Some(Named::new(argument)?),
            None => Named::current()?,
        };
        let named = url_of(named)?;
        let layers = Layers::new(read_only, audit)?;
        Ok(Self {
            registry,
            named,
            layers,
            timeout,
            output,
            store: OnceCell::new(),
            others: Mutex::default(),
        })
    }

    /// The same run of the command with the store yet to be opened: for a part of it that begins when this one
    /// has been closed.
    pub(crate) fn again(&self) -> Self {
        Self {
            registry: self.registry.clone(),
            named: self.named.clone(),
            layers: self.layers.clone(),
            timeout: self.timeout,
            output: self.output,
            store: OnceCell::new(),
            others: Mutex::default(),
        }
    }

    /// The form of output that was asked for, if one was.
    pub(crate) fn output(&self) -> Option<Format> {
        self.output
    }

    /// The deadline that was asked for, if one was.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Whether this store belongs to one process as long as that has it open.
    pub(crate) fn is_for_one_process(&self) -> bool {
        self.named
            .url
            .split_once(':')
            .is_some_and(|(scheme, _)| ["sled", "mem"].iter().any(|known| scheme.eq_ignore_ascii_case(known)))
    }

    /// Makes a request, and tells about it where that is asked for.
    pub(crate) async fn request<T>(
        &self,
        operation: Operation,
        on: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let begin = Instant::now();
        let done = work.await;
        let took = duration(begin.elapsed());
        match &done {
            Ok(_) => tracing::info!("{operation} {on:?}: done in {took}"),
            Err(error) => tracing::info!("{operation} {on:?}: {}, after {took}", error.kind()),
        }
        done
    }

    /// A failure, with what to look at where the URL may name another kind of server than there is.
    pub(crate) fn advised(&self, failure: Failure) -> Failure {
        let Failure::Store(error) = failure else { return failure };
        match StoreUrl::parse(&self.named.url).ok().and_then(|url| server::doubt(&url, error.kind())) {
            Some(advice) => Failure::Advised { error, advice },
            None => Failure::Store(error),
        }
    }

    /// The hosts of the store's URL and a URL for each alone, where it names more than one.
    pub(crate) fn members(&self) -> Vec<(String, String)> {
        server::members(&self.named.url)
    }

    /// Opens another store with the same drivers.
    pub(crate) async fn open_other(&self, url: &str) -> Result<Arc<dyn Store>, Error> {
        self.in_time_at(url, Operation::Open, self.registry.open(url)).await
    }

    /// The store's URL, fit to be shown.
    pub(crate) fn shown_url(&self) -> Result<String, Failure> {
        Ok(StoreUrl::parse(&self.named.url)?.to_string())
    }

    /// The store's URL, for whoever opens it by itself: it can hold a secret.
    pub(crate) fn url(&self) -> &str {
        &self.named.url
    }

    /// Whether everything that could change the store is refused.
    pub(crate) fn is_read_only(&self) -> bool {
        self.named.read_only || self.layers.is_read_only()
    }

    /// The driver of the store, for whoever opens it without a layer.
    pub(crate) fn bare_driver(&self) -> Result<Driver, Failure> {
        if self.named.read_only || !self.layers.is_bare() {
            return Err(Failure::Usage(
                "the suite opens the store by itself, so that it runs without --read-only and --audit"
                    .to_owned(),
            ));
        }
        let url = StoreUrl::parse(&self.named.url)?;
        let driver = self.registry.driver(url.scheme()).copied();
        driver.ok_or_else(|| Failure::Usage(format!("there is no driver for {}", url.scheme())))
    }

    /// The store, opened at the first call.
    pub(crate) async fn store(&self) -> Result<&Arc<dyn Store>, Failure> {
        self.store_within(Wait::Timeout).await
    }

    /// The same, waiting this long if another process has its directory.
    pub(crate) async fn store_within(&self, wait: Wait) -> Result<&Arc<dyn Store>, Failure> {
        self.store.get_or_try_init(|| self.open(&self.named, wait)).await
    }

    /// Another store, opened in the same way and closed with the first.
    pub(crate) async fn other(&self, named: &Named) -> Result<Arc<dyn Store>, Failure> {
        let store = self.open(named, Wait::Timeout).await?;
        self.others.lock().unwrap_or_else(PoisonError::into_inner).push(store.clone());
        Ok(store)
    }

    /// Closes the stores that were opened.
    pub(crate) async fn close(&self) {
        let others = std::mem::take(&mut *self.others.lock().unwrap_or_else(PoisonError::into_inner));
        for store in self.store.get().into_iter().chain(&others) {
            farewell(&**store, self.timeout.unwrap_or(FAREWELL).min(FAREWELL)).await;
        }
    }

    async fn open(&self, named: &Named, wait: Wait) -> Result<Arc<dyn Store>, Failure> {
        let patience = match wait {
            Wait::Timeout => Some(self.timeout.unwrap_or(PATIENCE)),
            Wait::UpTo(patience) => Some(patience),
            Wait::Forever => None,
        };
        let begin = Instant::now();
        let mut told = false;
        loop {
            let error = match self.open_once(&named.url).await {
                Ok(store) => return Ok(self.layers.around(store, named.read_only)),
                Err(error) => error,
            };
            let ErrorKind::InUse { holder } = error.kind() else { return Err(error.into()) };
            // It waits for us to end: waiting for it would be waiting for ever.
            if let Some(parent) = holder.filter(|holder| ancestors().any(|pid| pid == *holder)) {
                return Err(Failure::Advised { error, advice: by_parent_advice(parent) });
            }
            if let Some(patience) = patience.filter(|patience| begin.elapsed() >= *patience) {
                return Err(Failure::Advised { error, advice: in_use_advice(patience) });
            }
            if !told && (patience.is_none() || begin.elapsed() >= UNTOLD) {
                told = true;
                say(&format!("kv: waiting: {error}"));
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn open_once(&self, url: &str) -> Result<Arc<dyn Store>, Error> {
        // A store has a connect timeout of its own, which its URL sets and whose words are better.
        let open = self.in_time_at(url, Operation::Open, self.registry.open(url));
        let shown = StoreUrl::parse(url)?.to_string();
        self.request(Operation::Open, &shown, open).await
    }

    /// What changes nothing and takes no deadline, within the one that was asked for.
    pub(crate) async fn in_time<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.in_time_at(&self.named.url, operation, work).await
    }

    /// The same of the store at another URL.
    async fn in_time_at<T>(
        &self,
        url: &str,
        operation: Operation,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let Some(timeout) = self.timeout else { return work.await };
        match tokio::time::timeout(timeout, work).await {
            Ok(done) => done,
            Err(_) => Err(Error::new(ErrorKind::Timeout)
                .with_operation(operation)
                .with_endpoint(StoreUrl::parse(url)?.to_string())
                .with_detail(format!("not done within {}", duration(timeout)))),
        }
    }
}

/// Closes a store. Whatever the command did is done: what goes wrong now is told and changes nothing.
async fn farewell(store: &dyn Store, limit: Duration) {
    match tokio::time::timeout(limit, store.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => say(&format!("kv: warning: {error}")),
        Err(_) => {
            let limit = duration(limit);
            say(&format!("kv: warning: closing the store took more than {limit}; left it open"));
        }
    }
}

/// The environment variable that names the `kv lock` processes a command runs under, outermost first.
pub(crate) const LOCK_PIDS: &str = "KV_LOCK_PIDS";

/// The `kv lock` processes this process runs under.
fn ancestors() -> impl Iterator<Item = u32> {
    let pids = std::env::var(LOCK_PIDS).unwrap_or_default();
    pids.split(',').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>().into_iter()
}

fn by_parent_advice(parent: u32) -> String {
    format!(
        "process {parent} is the kv lock this command runs under, and it has the directory until this command \
         ends; for a store that several processes use at a time name a server: etcd, Consul or ZooKeeper"
    )
}

/// What a user of this command can do about a directory another process has; the store's own words
/// say what it is about.
fn in_use_advice(patience: Duration) -> String {
    if patience.is_zero() {
        return "kv did not wait for it".to_owned();
    }
    format!("kv waited {}; --timeout, for kv lock --wait, says how long", duration(patience))
}

/// Takes what a URL leaves out from the variables of the native tools, and says so.
fn complete(named: Named) -> Result<Named, Failure> {
    let variable = |name: &str| std::env::var(name).ok();
    let Some(completed) = native::complete(&named.url, variable)? else { return Ok(named) };
    let shown = StoreUrl::parse(&completed.url)?;
    say(&format!("kv: {shown}, from {}", completed.from.join(", ")));
    if let Some(secret) = completed.in_the_clear {
        say(&format!(
            "kv: warning: the {secret} is sent without encryption, as the native tool would send it; with https:// \
             addresses, or +tls in the URL, it is not"
        ));
    }
    for unused in completed.unused {
        say(&format!("kv: warning: {unused} is set, and kv does not use it"));
    }
    Ok(Named { url: completed.url, ..named })
}

/// A store that is named in words: with what its URL leaves out, or the default one.
pub(crate) fn url_of(named: Option<Named>) -> Result<Named, Failure> {
    match named {
        Some(named) => complete(named),
        None => Ok(Named { url: default_url()?, read_only: false }),
    }
}

/// The same URL without a word about where it is from, for whoever only looks.
pub(crate) fn quiet_url_of(named: Option<Named>) -> Option<String> {
    let Some(Named { url, .. }) = named else { return default_url().ok() };
    let completed = native::complete(&url, |name| std::env::var(name).ok()).ok()?;
    Some(completed.map_or(url, |completed| completed.url))
}

/// The store of somebody who named none.
fn default_url() -> Result<String, Failure> {
    /// What means something in a URL.
    const MARKS: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#');
    let nowhere = |why: &str| {
        Failure::Usage(format!("there is no place for the default store: {why}; name one with --store"))
    };
    let base = etcetera::choose_base_strategy().map_err(|error| nowhere(&error.to_string()))?;
    let path = base.data_dir().join("kv");
    let path = path.to_str().ok_or_else(|| nowhere("the data directory's path is not UTF-8"))?;
    Ok(format!("sled:{}", utf8_percent_encode(path, MARKS)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run of the command on this store, as a test has it.
    pub(crate) fn session(url: &str) -> Session {
        let global = Global {
            store: Some(url.to_owned()),
            timeout: None,
            output: None,
            read_only: false,
            audit: None,
            verbose: 0,
        };
        Session::new(kv_any::registry(), global).unwrap()
    }
}
