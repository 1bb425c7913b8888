//! A guard over the thread of a session whose client crate does not come to an end.
//!
//! zookeeper-client goes on as long as its server sends, asks nobody in between, and keeps a request for
//! each event that it did not ask for. A server that sends events without end takes all memory so, and
//! the thread cannot be stopped from outside. What can be ended is the connection: then the crate looks
//! for another one, which is where its thread comes to an end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;

use super::sockets::cut;

/// How often the thread is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A thread that used this much of a processor without asking anybody is not starved but busy.
const BUSY: Duration = Duration::from_millis(500);

/// With fewer requests than this it is busy with something else.
const FEW: u64 = 500;

/// What the guard is about.
pub(super) struct Guard {
    pub(super) handle: Handle,
    /// The number of the thread, as the system has it.
    pub(super) thread: Option<u64>,
    pub(super) servers: Vec<SocketAddr>,
    pub(super) requests: Arc<AtomicU64>,
}

impl Guard {
    /// Watches until the thread is gone; `give_up` ends its runtime.
    pub(super) async fn keep(self, mut give_up: impl FnMut() + Send) {
        let Some(thread) = self.thread else { return };
        let (mut before, mut requests) = (Duration::MAX, 0);
        let mut asked = self.handle.spawn(async {});
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(now) = used(thread) else { return };
            // Whether it gets to anything else.
            if asked.is_finished() {
                let answered = !asked.await.is_err_and(|error| error.is_cancelled());
                asked = self.handle.spawn(async {});
                if answered {
                    (before, requests) = (now, self.requests.load(Ordering::Relaxed));
                    continue;
                }
            }
            let since = self.requests.load(Ordering::Relaxed).wrapping_sub(requests);
            before = before.min(now);
            if now - before >= BUSY && since < FEW {
                give_up();
                tracing::warn!(
                    servers = ?self.servers,
                    "a ZooKeeper server sends without end what nobody asked for; the session is given up"
                );
                cut(&self.servers);
                before = now;
            }
        }
    }
}

/// The number of the running thread.
pub(super) fn this_thread() -> Option<u64> {
    let link = std::fs::read_link("/proc/thread-self").ok()?;
    link.file_name()?.to_str()?.parse().ok()
}

/// How much of a processor a thread of this process has used; `None` once it is gone.
fn used(thread: u64) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    // A tick is 10 ms.
    Some(Duration::from_millis((ticks()? + ticks()?) * 10))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::AtomicBool;
    use std::sync::{Mutex, PoisonError};

    use super::super::runtime::OwnedRuntime;
    use super::*;

    /// Reads as long as something comes, and asks nobody in between, as the client crate does.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_thread_that_never_comes_to_an_end_is_brought_to_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(&[7; 1 << 16]).is_ok() {}
        });
        let mut stream = TcpStream::connect(address).unwrap();
        let runtime = OwnedRuntime::start().unwrap();
        let handle = runtime.handle().clone();
        let thread = handle.spawn(async { this_thread() }).await.unwrap();
        assert!(thread.and_then(used).is_some());
        let ended = Arc::new(AtomicBool::new(false));
        handle.spawn({
            let ended = Arc::clone(&ended);
            async move {
                let mut bytes = [0; 256];
                while stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
                ended.store(true, Ordering::SeqCst);
            }
        });
        let runtime = Arc::new(Mutex::new(Some(runtime)));
        let guard = Guard { handle, thread, servers: vec![address], requests: Arc::default() };
        let guarding = guard.keep(|| drop(runtime.lock().unwrap_or_else(PoisonError::into_inner).take()));
        tokio::time::timeout(Duration::from_secs(60), guarding).await.expect("an end");
        assert!(ended.load(Ordering::SeqCst));
        assert!(runtime.lock().unwrap().is_none());
    }

    /// As long as it gets to other things now and then it may work as much as it likes.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_thread_that_is_merely_busy_is_left_alone() {
        let runtime = OwnedRuntime::start().unwrap();
        let handle = runtime.handle().clone();
        let thread = handle.spawn(async { this_thread() }).await.unwrap();
        handle.spawn(async {
            loop {
                let begin = std::time::Instant::now();
                while begin.elapsed() < Duration::from_millis(20) {}
                tokio::task::yield_now().await;
            }
        });
        let guard = Guard { handle, thread, servers: Vec::new(), requests: Arc::default() };
        let guarding = guard.keep(|| panic!("it is not stuck"));
        assert!(tokio::time::timeout(Duration::from_secs(3), guarding).await.is_err());
        drop(runtime);
    }
}
