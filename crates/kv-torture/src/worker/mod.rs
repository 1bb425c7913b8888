//! One process of a campaign: opens its handles, does random operations on them until it is told to
//! stand still, and says what it saw. It obeys lines on its standard input.

mod caller;
mod lives;
mod locks;
mod registers;
mod stalls;
mod units;
mod watches;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kv_any::kv_core::{Power, Store, StoreExt};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

use crate::history::{Client, Note, Recorder, now};
use caller::Caller;
pub(crate) use units::unit_key;
pub use work::Args;
use work::Work;

/// How long a handle may take to open, and to serve again.
const PATIENCE: Duration = Duration::from_secs(90);

/// The lines a process is told, and answers with the same.
pub const STAND_STILL: &str = "stand still";
/// See [`STAND_STILL`].
pub const SETTLE: &str = "settle";
/// See [`STAND_STILL`].
pub const CLOSE: &str = "close";
/// What a process says when its handles are open.
pub const READY: &str = "ready";

/// Runs the process until it is told to close.
///
/// # Errors
/// If its handles cannot be opened, its history cannot be written, or its orders end.
pub async fn run(args: Args) -> Result<()> {
    let recorder = Arc::new(Recorder::create(&args.history)?);
    let work = Arc::new(Work {
        recorder: Arc::clone(&recorder),
        stop: AtomicBool::new(false),
        settled: AtomicBool::new(false),
        args,
    });
    stalls::watch(&work);
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let before = descriptors()?;
    let mut callers = Vec::new();
    for handle in 0..work.args.handles {
        let client = Client { process: work.args.process, handle };
        let store = open(&work.args.url).await?;
        recorder.note(client, now(), Note::Opened)?;
        callers.push(Caller::new(store, client, Arc::clone(&recorder)));
    }
    let mut tasks = JoinSet::new();
    let mut watches = JoinSet::new();
    for caller in &callers {
        start(&work, caller, &mut tasks, &mut watches);
    }
    say(READY);
    expect(&mut orders, STAND_STILL).await?;
    work.stop.store(true, Ordering::Relaxed);
    ended(&mut tasks).await?;
    for caller in &callers {
        recovered(caller, &recorder).await?;
    }
    say(STAND_STILL);
    expect(&mut orders, SETTLE).await?;
    work.settled.store(true, Ordering::Relaxed);
    ended(&mut watches).await?;
    say(SETTLE);
    expect(&mut orders, CLOSE).await?;
    for caller in &callers {
        caller.store().close().await.context("close")?;
    }
    drop(callers);
    let after = descriptors_at_rest(before).await?;
    let client = Client { process: work.args.process, handle: 0 };
    let note = Note::Closed { descriptors_before: before, descriptors_after: after };
    recorder.note(client, now(), note)?;
    say(CLOSE);
    Ok(())
}

fn start(
    work: &Arc<Work>,
    caller: &Caller,
    tasks: &mut JoinSet<Result<()>>,
    watches: &mut JoinSet<Result<()>>,
) {
    let capabilities = caller.store().capabilities();
    for task in 0..2 {
        tasks.spawn(registers::run(Arc::clone(work), caller.clone(), task));
        tasks.spawn(locks::run(Arc::clone(work), caller.clone(), 10 + task));
    }
    tasks.spawn(lives::run(Arc::clone(work), caller.clone(), 20));
    if capabilities.has(Power::Transactions) {
        tasks.spawn(units::run(Arc::clone(work), caller.clone(), 30));
    }
    watches.spawn(watches::run(Arc::clone(work), caller.clone()));
}

async fn open(url: &str) -> Result<Arc<dyn Store>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match kv_any::open(url).await {
            Ok(store) => return Ok(store),
            Err(error) if Instant::now() > deadline => return Err(error).context("open"),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn ended(tasks: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(task) = tasks.join_next().await {
        task.context("a task panicked")??;
    }
    Ok(())
}

/// Waits until the handle serves again, and notes when.
async fn recovered(caller: &Caller, recorder: &Recorder) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while caller.store().get("recovered").await.is_err() {
        if Instant::now() > deadline {
            return Ok(()); // The checker finds that the note is missing.
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    recorder.note(caller.client(), now(), Note::Recovered)
}

async fn expect(orders: &mut tokio::io::Lines<BufReader<tokio::io::Stdin>>, wanted: &str) -> Result<()> {
    match orders.next_line().await? {
        Some(line) if line == wanted => Ok(()),
        Some(line) => bail!("told {line:?}, expected {wanted:?}"),
        None => bail!("the campaign is gone"),
    }
}

#[allow(clippy::print_stdout, reason = "the campaign reads it")]
fn say(line: &str) {
    println!("{line}");
}

fn descriptors() -> Result<u64> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count().try_into()?)
}

/// How many descriptors are open once they are as few as before, or ten seconds later.
async fn descriptors_at_rest(before: u64) -> Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let open = descriptors()?;
        if open <= before || Instant::now() > deadline {
            return Ok(open);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
