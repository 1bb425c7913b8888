//! The stream of changes, and the TLS settings.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use etcd_client as native;
use kv_backend::TlsOptions;
use kv_core::{Error, Result};

use super::answer;
use super::error::{self, Next};
use super::member::Native;
use super::wire::{Change, Name, Range};

/// One watch of a stream.
#[derive(Clone, Debug)]
pub(crate) struct WatchRequest {
    /// Chosen by us, never 0: then the server would choose.
    pub(crate) id: i64,
    pub(crate) range: Range,
    /// The first revision wanted; 0: the next one.
    pub(crate) start: i64,
    pub(crate) puts: bool,
    pub(crate) deletes: bool,
}

impl WatchRequest {
    pub(super) fn native(&self) -> (Name, native::WatchOptions) {
        let mut filters = Vec::new();
        if !self.puts {
            filters.push(native::WatchFilterType::NoPut);
        }
        if !self.deletes {
            filters.push(native::WatchFilterType::NoDelete);
        }
        let mut options = native::WatchOptions::new()
            .with_watch_id(self.id)
            .with_start_revision(self.start)
            // From time to time a watch of which nothing changes is told up to where that is so, and
            // later needs no older history.
            .with_progress_notify()
            .with_filters(filters);
        if let Some(end) = &self.range.end {
            options = options.with_range(end.clone());
        }
        // What a delete needs; puts cannot be told apart in the request.
        if self.deletes {
            options = options.with_prev_key();
        }
        (self.range.start.clone(), options)
    }
}

/// One message of a stream.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) id: i64,
    /// The cluster it came from.
    pub(crate) cluster: u64,
    /// The revision of the member that sent it.
    pub(crate) revision: i64,
    pub(crate) created: bool,
    pub(crate) cancelled: bool,
    /// With a cancel: what lies before this revision is gone.
    pub(crate) compacted: Option<i64>,
    /// With a cancel: why, in the server's words.
    pub(crate) reason: String,
    /// What changed, or that it makes no sense.
    pub(crate) changes: Result<Vec<Change>>,
}

/// The half of a stream that takes requests.
pub(crate) struct ChangesOut(native::WatchRequestSender);

impl ChangesOut {
    /// Both fail only when the stream is over, which the other half tells.
    pub(crate) async fn watch(&mut self, request: &WatchRequest) {
        let (name, options) = request.native();
        drop(self.0.watch(name, Some(options)).await);
    }

    /// Asks whether everything was told. A server answers only when it was.
    pub(crate) async fn progress(&mut self) {
        drop(self.0.request_progress().await);
    }

    pub(crate) async fn cancel(&mut self, id: i64) {
        drop(self.0.cancel(id).await);
    }
}

/// The half of a stream that delivers.
pub(crate) struct ChangesIn {
    stream: native::WatchResponseStream,
    /// The stream lives on this connection.
    native: Arc<Native>,
    /// How often was signed in before it was opened: it keeps the token it was opened with.
    sign_ins: u64,
}

impl ChangesIn {
    /// Whether the token it was opened with was replaced since.
    pub(crate) fn is_outdated(&self) -> bool {
        self.native.sign_ins.load(Ordering::Acquire) != self.sign_ins
    }

    /// The next message. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Answer, (Error, Next)> {
        let message = self.stream.message().await.map_err(error::classify)?;
        let Some(message) = message else {
            let error = Error::new(kv_core::ErrorKind::Unavailable);
            return Err((error.with_detail("the server ended the stream"), Next::Again));
        };
        let message = message.0;
        let changes = message.events.into_iter().map(answer::change).collect();
        let header = message.header.unwrap_or_default();
        Ok(Answer {
            id: message.watch_id,
            cluster: header.cluster_id,
            revision: header.revision,
            created: message.created,
            cancelled: message.canceled,
            compacted: (message.compact_revision > 0).then_some(message.compact_revision),
            reason: message.cancel_reason,
            changes,
        })
    }
}

/// Opens a stream with its first watch.
pub(super) async fn open(
    native: Arc<Native>,
    name: Name,
    options: native::WatchOptions,
) -> Result<(ChangesOut, ChangesIn), native::Error> {
    // Read before it is used, as a sign-in in between makes it outdated and not the other way round.
    let sign_ins = native.sign_ins.load(Ordering::Acquire);
    let (sender, stream) = native.watch.clone().watch(name, Some(options)).await?.split();
    Ok((ChangesOut(sender), ChangesIn { stream, native, sign_ins }))
}

/// The native TLS settings. The server's certificate is always checked.
pub(super) fn tls(files: &TlsOptions) -> native::TlsOptions {
    let mut options = native::TlsOptions::new();
    options = match &files.ca {
        Some(ca) => options.ca_certificate(native::Certificate::from_pem(ca)),
        None => options.with_native_roots(),
    };
    if let Some((certificate, key)) = &files.identity {
        options = options.identity(native::Identity::from_pem(certificate, key.expose()));
    }
    if let Some(name) = &files.server_name {
        options = options.domain_name(name);
    }
    options
}
