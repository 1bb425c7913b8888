//! `kv doctor`: is the store there, does it let us in, does it do what it is for, and how fast.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt;
use kv_core::{
    Consistency, DeleteOptions, Error, ErrorKind, GetOptions, Guarantee, Key, ListOptions, Operation, Power,
    Precondition, Prefix, PutOptions, Store, StoreExt,
};
use serde::Serialize;

use crate::cli::Doctor;
use crate::exit::{self, Failure};
use crate::faults;
use crate::output::{Format, JsonItems, Output};
use crate::session::Session;

/// How many times a read is timed.
const TIMED: u32 = 5;

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    Failed,
    Skipped,
    /// Nothing failed, and it is worth knowing.
    Note,
}

#[derive(Serialize)]
struct Check {
    check: &'static str,
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    ms: Option<f64>,
    detail: String,
}

/// Shows each check when it is done, and keeps the first failure's code.
struct Report<'s> {
    session: &'s Session,
    out: Output,
    items: Option<JsonItems>,
    code: Option<u8>,
}

impl<'s> Report<'s> {
    fn begin(session: &'s Session) -> Result<Self, Failure> {
        let mut out = Output::stdout();
        let items = match session.output() {
            None | Some(Format::Table) => None,
            Some(format) => Some(JsonItems::begin(format, &mut out)?),
        };
        Ok(Self { session, out, items, code: None })
    }

    /// Takes the result of a check that took this long; the words for success are the caller's.
    fn add(
        &mut self,
        check: &'static str,
        took: Duration,
        done: Result<String, Failure>,
    ) -> Result<(), Failure> {
        let ms = Some((took.as_secs_f64() * 1e5).round() / 100.0);
        let (outcome, detail) = match done {
            Ok(detail) => (Outcome::Ok, detail),
            Err(failure) => {
                let failure = self.session.advised(failure);
                self.code.get_or_insert(failure.code());
                let words = failure.report(false).unwrap_or_default();
                (Outcome::Failed, words.trim_start_matches("kv: ").to_owned())
            }
        };
        self.show(&Check { check, outcome, ms, detail })
    }

    fn skip(&mut self, check: &'static str, detail: &str) -> Result<(), Failure> {
        self.show(&Check { check, outcome: Outcome::Skipped, ms: None, detail: detail.to_owned() })
    }

    fn note(&mut self, check: &'static str, detail: String) -> Result<(), Failure> {
        self.show(&Check { check, outcome: Outcome::Note, ms: None, detail })
    }

    fn show(&mut self, check: &Check) -> Result<(), Failure> {
        if let Some(items) = &mut self.items {
            items.item(&mut self.out, check)?;
        } else {
            let mark = match check.outcome {
                Outcome::Ok => "ok",
                Outcome::Failed => "FAILED",
                Outcome::Skipped => "skipped",
                Outcome::Note => "note",
            };
            let ms = check.ms.map_or_else(String::new, |ms| format!("{ms:.1} ms"));
            self.out.line(&format!("{mark:<8} {:<13} {ms:>10}  {}", check.check, check.detail))?;
        }
        self.out.flush()
    }

    fn end(mut self) -> Result<(), Failure> {
        if let Some(items) = self.items {
            items.end(&mut self.out)?;
        }
        self.out.flush()?;
        match self.code {
            None => Ok(()),
            Some(code) => Err(Failure::Incomplete { message: "not everything is well".to_owned(), code }),
        }
    }
}

async fn timed<T>(work: impl Future<Output = T>) -> (Duration, T) {
    let begin = Instant::now();
    let done = work.await;
    (begin.elapsed(), done)
}

pub(crate) async fn run(session: &Session, args: Doctor) -> Result<(), Failure> {
    let mut report = Report::begin(session)?;
    let url = session.shown_url()?;
    let (took, opened) = timed(session.store()).await;
    let store = match opened {
        Ok(store) => {
            report.add("open", took, Ok(url))?;
            store
        }
        Err(failure) => {
            report.add("open", took, Err(failure))?;
            members(session, &mut report).await?;
            return report.end();
        }
    };
    let (took, server) = timed(session.in_time(Operation::Server, store.server())).await;
    let known = match &server {
        Ok(server) => faults::known(&server.product, &server.version),
        Err(_) => Vec::new(),
    };
    match server {
        // Who may use the keys need not be told what the server is.
        Err(error) if *error.kind() == ErrorKind::PermissionDenied => {
            report.note("server", format!("its version is not known: {error}"))?;
        }
        server => {
            let server = server.map(|server| format!("{} {}", server.product, server.version));
            report.add("server", took, server.map_err(Failure::from))?;
        }
    }
    for words in known {
        report.note("server", words)?;
    }

    let scratch = scratch_key()?;
    let (took, done) = timed(read(&**store, &scratch, Consistency::Linearizable, session.timeout())).await;
    let unread = done.is_err();
    report.add("read", took / TIMED, done)?;
    if unread && store.capabilities().has(Power::StaleReads) {
        let (took, done) = timed(read(&**store, &scratch, Consistency::Stale, session.timeout())).await;
        report.add("stale read", took / TIMED, done)?;
    }
    let (took, listed) = timed(list(&**store, session.timeout())).await;
    report.add("list", took, listed)?;
    if args.write {
        let (took, written) = timed(write(&**store, &scratch, session.timeout())).await;
        report.add("write", took, written)?;
    } else {
        report.skip("write", &format!("--write puts, reads and deletes {scratch:?}"))?;
    }
    members(session, &mut report).await?;
    report.add("capabilities", Duration::ZERO, Ok(absences(&**store)))?;
    report.end()
}

pub(super) fn scratch_key() -> Result<Key, Error> {
    Key::new(&format!("kv-doctor/{}", super::owner::default_owner().replace(['/', ':'], "-")))
}

/// Each server the URL names, by itself: what it is and what it still answers.
async fn members(session: &Session, report: &mut Report<'_>) -> Result<(), Failure> {
    for (host, url) in session.members() {
        let (took, done) = timed(member(session, &url)).await;
        let done = done.map(|words| format!("{host}: {words}"));
        // In one line: what caused it stands beside the first failure already.
        report.add("member", took, done.map_err(|error| one_line(&error.with_endpoint(host))))?;
    }
    Ok(())
}

fn one_line(error: &Error) -> Failure {
    let code = exit::of_kind(error.kind());
    Failure::Incomplete { message: error.to_string(), code }
}

async fn member(session: &Session, url: &str) -> Result<String, Error> {
    let store = session.open_other(url).await?;
    let answer = answer(session, &*store).await;
    // What it holds is nothing; that it cannot be told so changes nothing.
    if let Err(error) = store.close().await {
        tracing::debug!(%error, "a member's handle could not be closed");
    }
    answer
}

async fn answer(session: &Session, store: &dyn Store) -> Result<String, Error> {
    let server = session.in_time(Operation::Server, store.server()).await;
    let key = scratch_key()?;
    let get = |consistency| {
        let mut options = GetOptions::default().with_consistency(consistency);
        options.timeout = session.timeout();
        store.get_with(&key, options)
    };
    let reads = match get(Consistency::Linearizable).await {
        Ok(_) => "reads answered".to_owned(),
        Err(error) if store.capabilities().has(Power::StaleReads) => match get(Consistency::Stale).await {
            Ok(_) => format!("stale reads answered, others not: {}", error.kind()),
            Err(_) => return Err(error),
        },
        Err(error) => return Err(error),
    };
    Ok(match server {
        Ok(server) => format!("{} {}, {reads}", server.product, server.version),
        Err(error) => format!("{reads}; its version is not known: {}", error.kind()),
    })
}

async fn read(
    store: &dyn Store,
    key: &Key,
    consistency: Consistency,
    timeout: Option<Duration>,
) -> Result<String, Failure> {
    let mut slowest = Duration::ZERO;
    for _ in 0..TIMED {
        let mut options = GetOptions::default().with_consistency(consistency);
        options.timeout = timeout;
        let (took, got) = timed(store.get_with(key, options)).await;
        got?;
        slowest = slowest.max(took);
    }
    Ok(format!("mean of {TIMED}; the slowest took {:.1} ms", slowest.as_secs_f64() * 1e3))
}

async fn list(store: &dyn Store, timeout: Option<Duration>) -> Result<String, Failure> {
    let mut options = ListOptions::default().with_one_level().with_keys_only().with_limit(1);
    options.timeout = timeout;
    let mut listing = store.list_with(&Prefix::root(), options).await?;
    Ok(match listing.try_next().await? {
        Some(_) => "there are keys".to_owned(),
        None => "the namespace is empty".to_owned(),
    })
}

/// A round trip that leaves nothing behind.
async fn write(store: &dyn Store, key: &Key, timeout: Option<Duration>) -> Result<String, Failure> {
    let value = Bytes::from_static(b"kv doctor \0\xff");
    let mut options = PutOptions::default().with_precondition(Precondition::Absent);
    options.timeout = timeout;
    let put = store.put_with(key, value.clone(), options).await?;
    let mut options = GetOptions::default();
    options.timeout = timeout;
    let got = store.get_with(key, options).await;
    let mut options = DeleteOptions::default().with_precondition(Precondition::At(put.version));
    options.timeout = timeout;
    // Before the read is judged: nothing stays behind.
    store.delete_with(key, options).await?;
    if got?.is_none_or(|entry| entry.value != value || entry.version != put.version) {
        let wrong = Error::new(ErrorKind::Corrupt).with_operation(Operation::Get).with_key(key.as_str());
        return Err(wrong.with_detail("what was read is not what was put").into());
    }
    Ok("put, read back and deleted".to_owned())
}

fn absences(store: &dyn Store) -> String {
    let declared = store.capabilities();
    let powers = Power::ALL.iter().filter(|power| !declared.has(**power)).map(|power| power.name());
    let guarantees = Guarantee::ALL
        .iter()
        .filter(|guarantee| !declared.guarantees(**guarantee))
        .map(|guarantee| guarantee.name());
    let absent: Vec<_> = powers.chain(guarantees).collect();
    if absent.is_empty() { "nothing is absent".to_owned() } else { format!("absent: {}", absent.join(", ")) }
}
