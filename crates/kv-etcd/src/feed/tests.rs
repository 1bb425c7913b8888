//! What a server's answers mean for the stream, without a server.

use kv_core::Secret;

use super::*;
use crate::client::Settings;

const ID: i64 = 7;

fn task(settings: Settings) -> Task {
    let (_, commands) = mpsc::unbounded_channel();
    let client = Arc::new(Client::new(settings).unwrap());
    let timeout = LONGEST_PAUSE;
    Task { client, timeout, commands, subs: BTreeMap::new(), cluster: 0, first: 0, doubts_token: false }
}

/// Adds a watch that the server is asked for.
fn begin(task: &mut Task) -> (mpsc::UnboundedReceiver<Signal>, oneshot::Receiver<Result<()>>) {
    let (signals, received) = mpsc::unbounded_channel();
    let (started, has_started) = oneshot::channel();
    let request = WatchRequest { id: ID, range: Range::one("k"), start: 5, puts: true, deletes: true };
    let queued = Arc::default();
    let sub = Sub { request, seen: 4, signals, queued, started: Some(started), retried: false };
    task.note(Command::Watch(ID, Box::new(sub)));
    (received, has_started)
}

fn answer() -> Answer {
    Answer {
        id: ID,
        cluster: 1,
        revision: 9,
        created: false,
        cancelled: false,
        compacted: None,
        reason: String::new(),
        changes: Ok(Vec::new()),
    }
}

fn refusal() -> Answer {
    // As older versions say it, of missing rights and of an expired token alike.
    let reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied".to_owned();
    Answer { created: true, cancelled: true, reason, ..answer() }
}

fn settings(user: Option<(String, Secret)>) -> Settings {
    Settings {
        hosts: vec!["h:1".to_owned()],
        user,
        plaintext: kv_backend::Plaintext::default(),
        tls: None,
        connect_timeout: LONGEST_PAUSE,
        keep_alive: LONGEST_PAUSE,
    }
}

fn with_user() -> Settings {
    settings(Some(("u".to_owned(), Secret::new("p"))))
}

#[test]
fn a_refusal_on_an_old_stream_may_be_its_token() {
    let mut task = task(with_user());
    let (_signals, mut started) = begin(&mut task);
    let Taken::Reopen(error) = task.take(ID, refusal(), true) else { panic!("it was believed") };
    // Which would end all watches.
    assert_ne!(error.kind(), &ErrorKind::PermissionDenied);
    assert!(task.doubts_token && started.try_recv().is_err());

    // With another token it is what it says it is, however long that takes.
    assert!(matches!(task.take(ID, refusal(), true), Taken::Well));
    let error = started.try_recv().unwrap().unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::PermissionDenied);
    assert!(task.subs.is_empty());
}

#[test]
fn a_refusal_with_a_fresh_token_or_none_is_believed() {
    for (settings, is_old) in [(with_user(), false), (settings(None), true)] {
        let mut task = task(settings);
        let (_signals, mut started) = begin(&mut task);
        assert!(matches!(task.take(ID, refusal(), is_old), Taken::Well));
        assert_eq!(started.try_recv().unwrap().unwrap_err().kind(), &ErrorKind::PermissionDenied);
    }
}

#[test]
fn a_notification_of_progress_spares_older_history() {
    let mut task = task(with_user());
    let _kept = begin(&mut task);
    task.take(ID, Answer { created: true, ..answer() }, false);
    assert_eq!(task.subs[&ID].request.start, 5, "what happened up to now may be on its way");
    task.take(ID, answer(), false);
    assert_eq!((task.subs[&ID].request.start, task.subs[&ID].seen), (10, 9));
}

#[test]
fn only_the_watch_the_stream_was_to_be_opened_with_lacks_the_rights() {
    let mut task = task(with_user());
    let (_signals, mut started) = begin(&mut task);
    // It was opened with one that is gone by now.
    task.first = ID - 1;
    task.fail(Error::new(ErrorKind::PermissionDenied));
    assert!(started.try_recv().is_err() && task.subs.contains_key(&ID));
    task.first = ID;
    task.fail(Error::new(ErrorKind::PermissionDenied));
    assert_eq!(started.try_recv().unwrap().unwrap_err().kind(), &ErrorKind::PermissionDenied);
}
