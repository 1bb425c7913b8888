//! Signals that end a command: it stops where it is, closes the store and says which signal it was.

use std::time::Duration;

use tokio::sync::watch;

use crate::exit::{Failure, SIGNALLED};

/// How long a command has to end after a signal before it is ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// The first INT or TERM this process gets. HUP is left as it is, so that `nohup` works.
pub(crate) struct Ending {
    first: watch::Receiver<Option<u8>>,
}

impl Ending {
    /// Listens from now on. The process ends at the second signal, or when it has not ended some
    /// time after the first: whatever it is waiting for then (a full pipe, a silent server) will not
    /// come.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let mut signals =
            platform::Signals::listen().map_err(|error| Failure::io("cannot listen for signals", error))?;
        let (sender, first) = watch::channel(None);
        tokio::spawn(async move {
            let number = signals.next().await;
            // Nobody listens any more: the command has ended.
            let _ = sender.send(Some(number));
            tokio::select! {
                _ = signals.next() => {}
                () = tokio::time::sleep(PATIENCE) => {}
            }
            std::process::exit(i32::from(SIGNALLED.saturating_add(number)));
        });
        Ok(Self { first })
    }

    /// Runs `work` to its end, or drops it at the first signal.
    pub(crate) async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            number = self.signalled() => Err(Failure::Signal(number)),
            done = work => done,
        }
    }

    async fn signalled(&mut self) -> u8 {
        match self.first.wait_for(Option::is_some).await.map(|number| *number) {
            Ok(Some(number)) => number,
            // The listener never ends without sending first.
            _ => std::future::pending().await,
        }
    }
}

#[cfg(unix)]
mod platform {
    use std::io;

    use nix::libc::{SIGINT, SIGTERM};
    use tokio::signal::unix::{Signal, SignalKind, signal};

    pub(super) struct Signals {
        interrupt: Signal,
        terminate: Signal,
    }

    impl Signals {
        pub(super) fn listen() -> io::Result<Self> {
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
            })
        }

        pub(super) async fn next(&mut self) -> u8 {
            let number = tokio::select! {
                _ = self.interrupt.recv() => SIGINT,
                _ = self.terminate.recv() => SIGTERM,
            };
            u8::try_from(number).unwrap_or_default()
        }
    }
}

#[cfg(not(unix))]
mod platform {
    use std::io;

    const SIGINT: u8 = 2;

    pub(super) struct Signals;

    impl Signals {
        pub(super) fn listen() -> io::Result<Self> {
            Ok(Self)
        }

        pub(super) async fn next(&mut self) -> u8 {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            SIGINT
        }
    }
}
