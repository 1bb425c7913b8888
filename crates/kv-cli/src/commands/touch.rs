//! `kv touch`: keys put again with the values they have, so that their time to live begins anew.

use kv_core::{
    EntryExpiry, ErrorKind, Expiry, GetOptions, Key, Operation, Precondition, PutOptions, PutResult, StoreExt,
};
use serde::Serialize;

use super::level;
use crate::cli::Touch;
use crate::exit::Failure;
use crate::output::{Format, JsonItems, Output, duration, for_reader};
use crate::session::Session;

/// How often a key is tried that others put meanwhile.
const ATTEMPTS: u32 = 10;

#[derive(Serialize)]
struct Touched<'t> {
    key: &'t str,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    granted_ttl_seconds: Option<f64>,
}

pub(crate) async fn run(session: &Session, args: Touch) -> Result<(), Failure> {
    let keys = super::keys(&args.keys, Operation::Put)?;
    let wanted = match args.ttl {
        Some(ttl) => Some(Expiry::Ttl(ttl)),
        None => args.permanent.then_some(Expiry::Never),
    };
    let mut out = Output::stdout();
    let mut items = match session.output() {
        Some(Format::Table) | None => None,
        Some(format) => Some(JsonItems::begin(format, &mut out)?),
    };
    for key in &keys {
        let put = touch(session, key, wanted).await?;
        match &mut items {
            Some(items) => items.item(
                &mut out,
                &Touched {
                    key: key.as_str(),
                    version: put.version.get(),
                    granted_ttl_seconds: put.granted_ttl.map(|ttl| ttl.as_secs_f64()),
                },
            )?,
            None => {
                let lives = put
                    .granted_ttl
                    .map_or_else(|| "for good".to_owned(), |ttl| format!("for {}", duration(ttl)));
                out.line(&format!("{}: version {}, {lives}", for_reader(key.as_str()), put.version))?;
            }
        }
        out.flush()?;
    }
    if let Some(items) = items {
        items.end(&mut out)?;
    }
    out.flush()
}

/// Puts a key at the version it has with its own value.
async fn touch(session: &Session, key: &Key, wanted: Option<Expiry>) -> Result<PutResult, Failure> {
    let store = session.store().await?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let mut options = GetOptions::default().with_expiry();
        options.timeout = session.timeout();
        let entry = session.request(Operation::Get, key.as_str(), store.get_with(key, options)).await?;
        let Some(entry) = entry else {
            let below =
                level::below(session, key).await.map(|below| format!("; {below}")).unwrap_or_default();
            return Err(Failure::NotFound(format!("touch {key:?}: there is no such key{below}")));
        };
        let expiry = match (wanted, entry.expiry) {
            (Some(wanted), _) => wanted,
            (None, Some(EntryExpiry::Ttl { granted, .. })) => Expiry::Ttl(granted),
            (None, Some(EntryExpiry::Session)) => {
                return Err(Failure::Usage(format!(
                    "touch {key:?}: it lives with the session that put it, which renews it; --ttl or --permanent \
                     would take it from that session"
                )));
            }
            (None, _) => Expiry::Never,
        };
        let at = Precondition::At(entry.version);
        let mut options = PutOptions::default().with_precondition(at).with_expiry(expiry);
        options.timeout = session.timeout();
        let put = store.put_with(key, entry.value, options);
        match session.request(Operation::Put, key.as_str(), put).await {
            // Somebody put it between our read and our put: what they put is renewed.
            Err(error)
                if attempt < ATTEMPTS && matches!(error.kind(), ErrorKind::PreconditionFailed { .. }) => {}
            done => return Ok(done?),
        }
    }
}
