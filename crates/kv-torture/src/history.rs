//! What a campaign keeps: every call of every client with the times it began and ended, and what
//! clients saw on the way. A file of lines, so that a process that is killed leaves all it wrote.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

/// Nanoseconds of the machine's monotonic clock, which all processes on it share.
#[must_use]
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The number of a value. Every write of a campaign writes a number that no other write does.
pub type Value = u64;

/// An entry as a client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The number its value begins with.
    pub value: Value,
    /// Its version.
    pub version: u64,
    /// The version of the write that created it.
    pub created: u64,
}

/// What must hold for a write to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// Nothing.
    Any,
    /// The key is absent.
    Absent,
    /// The key is present.
    Present,
    /// The key is at the version that this value was seen at.
    At(Value),
    /// The key has this value.
    Value(Value),
}

/// How a key that is put expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// It never expires.
    Permanent,
    /// It lives as long as the handle's session.
    Session,
    /// It lives for this many milliseconds.
    Ttl(u64),
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Call {
    /// A put.
    Put {
        /// The key.
        key: String,
        /// The number that is written.
        value: Value,
        /// What must hold.
        when: When,
        /// The token of the lock that must be held.
        fence: Option<u64>,
        /// How the key expires.
        life: Life,
    },
    /// A delete.
    Delete {
        /// The key.
        key: String,
        /// What must hold.
        when: When,
    },
    /// A get.
    Get {
        /// The key.
        key: String,
        /// Whether an older state will do.
        stale: bool,
    },
    /// A transaction that moves units between two keys, under conditions on both.
    Transfer {
        /// The key that loses units.
        from: String,
        /// The key that gains them.
        to: String,
    },
    /// A read of all keys that units move between.
    Total {
        /// Whether the store promises that it is the state at one version.
        at_once: bool,
    },
    /// The acquisition of a lock.
    Acquire {
        /// The lock.
        lock: String,
    },
    /// The release of a lock.
    Release {
        /// The lock.
        lock: String,
        /// The token of the hold.
        token: u64,
    },
}

/// What it was told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// The put was made, at this version.
    Put {
        /// The version it gave the key.
        version: u64,
    },
    /// The delete was made.
    Deleted {
        /// Whether the key existed.
        existed: bool,
        /// The entry that was deleted, where it was asked for and told.
        previous: Option<Seen>,
    },
    /// The read saw this.
    Got(Option<Seen>),
    /// The sum of all units, with how many keys were seen.
    Sum {
        /// Of all keys that were seen.
        sum: u64,
        /// How many they were.
        keys: u64,
    },
    /// It was done, and there is nothing more to say.
    Done,
    /// The lock was acquired.
    Acquired {
        /// The fencing token.
        token: u64,
    },
    /// What had to hold did not. Nothing was changed.
    Refused,
    /// The lock is not held, or was not acquired in time. Nothing was changed.
    NotHeld,
    /// An error.
    Failed {
        /// Whether the write was surely not applied.
        surely_not_applied: bool,
        /// What it said.
        error: String,
    },
}

/// What a client notes beside its calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Note {
    /// A process began, and opened its handles.
    Opened,
    /// A process is about to be killed (by the nemesis).
    Killed {
        /// The process.
        process: u32,
    },
    /// A process did nothing from then until now: it was stopped, or the machine was busy.
    Stalled {
        /// When it was last seen to run.
        since: u64,
    },
    /// The guard of a lock said that it is held. The time is from before it was asked.
    Held {
        /// The lock.
        lock: String,
        /// The token of the hold.
        token: u64,
    },
    /// The guard of a lock reported its loss.
    Lost {
        /// The lock.
        lock: String,
        /// The token of the hold.
        token: u64,
        /// Whether it was lost by expiry.
        expired: bool,
        /// How long the server keeps others away from then, in nanoseconds.
        grace: u64,
    },
    /// A hold was ended from outside (by the nemesis).
    Broken {
        /// The lock.
        lock: String,
        /// The token of the hold.
        token: u64,
    },
    /// A watch of all register keys delivered an event.
    Watched {
        /// The watch; its number is unique in its process.
        watch: u32,
        /// The event.
        event: Event,
    },
    /// After everything stood still, a watch's state was compared with a list.
    Settled {
        /// The watch.
        watch: u32,
        /// What the watch says and the list does not, or the other way round.
        differences: Vec<String>,
    },
    /// How the session of a handle stands.
    Session {
        /// The handle.
        handle: u32,
        /// Whether it is held, by the store's word.
        held: bool,
    },
    /// What was left after every handle was closed, or after the bound of those that were killed.
    Left {
        /// The keys.
        keys: Vec<String>,
    },
    /// A fault begins or ends.
    Fault {
        /// What the nemesis does.
        what: String,
    },
    /// The faults are over and the servers are whole.
    Healed,
    /// A handle served again after the faults.
    Recovered,
    /// A process closed its handles. How many descriptors and tasks it had before it opened them and
    /// has after it closed them.
    Closed {
        /// Descriptors before.
        descriptors_before: u64,
        /// Descriptors after.
        descriptors_after: u64,
    },
}

/// An event of a watch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A key was put.
    Put {
        /// The key.
        key: String,
        /// The entry.
        seen: Seen,
    },
    /// A key is gone.
    Delete {
        /// The key.
        key: String,
        /// The version of the delete, where known.
        version: Option<u64>,
    },
    /// What was delivered before is to be forgotten, and the state follows.
    Resync,
    /// The state is complete.
    Synced,
}

/// Who did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Client {
    /// The number of the process. A process that is started again has another number.
    pub process: u32,
    /// The number of the handle in the process.
    pub handle: u32,
}

/// A call with its times.
#[derive(Clone, Debug)]
pub struct Op {
    /// Who made it.
    pub client: Client,
    /// When it began.
    pub begin: u64,
    /// When it ended; none if its process was killed before.
    pub end: Option<u64>,
    /// What was asked for.
    pub call: Call,
    /// What was told; none if its process was killed before.
    pub answer: Option<Answer>,
}

impl Op {
    /// The end, or the end of time.
    #[must_use]
    pub fn end_or_never(&self) -> u64 {
        self.end.unwrap_or(u64::MAX)
    }

    /// Whether nobody knows what became of it: no answer, or one that leaves it open.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        match &self.answer {
            None => true,
            Some(Answer::Failed { surely_not_applied, .. }) => !surely_not_applied,
            Some(_) => false,
        }
    }
}

/// A note with its time.
#[derive(Clone, Debug)]
pub struct Noted {
    /// Who noted it.
    pub client: Client,
    /// When.
    pub at: u64,
    /// What.
    pub note: Note,
}

/// What the store under test declares, as far as the checker asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promises {
    /// Reads see every acknowledged write.
    pub linearizable_reads: bool,
    /// A watch merges no changes.
    pub watch_complete: bool,
    /// A condition on a version notices a delete and re-create at any moment.
    pub cas_detects_recreate: bool,
    /// The deadline of each request, in nanoseconds.
    pub timeout: u64,
    /// The time to live of a session, in nanoseconds.
    pub session_ttl: u64,
    /// The sum of all units that transactions move.
    pub units: u64,
    /// How many keys hold them.
    pub unit_keys: u64,
}

/// All that a campaign kept.
#[derive(Clone, Debug)]
pub struct History {
    /// What the store declares.
    pub promises: Promises,
    /// Every call, in the order of its beginning.
    pub ops: Vec<Op>,
    /// Every note, in the order of time.
    pub notes: Vec<Noted>,
}

#[derive(Serialize, Deserialize)]
enum Line {
    Call { id: u64, client: Client, at: u64, call: Call },
    Answer { id: u64, at: u64, answer: Answer },
    Note { client: Client, at: u64, note: Note },
}

impl History {
    /// Reads the files of a campaign's folder.
    ///
    /// # Errors
    /// If one cannot be read. A last line that is cut off is left out: its process was killed.
    pub fn read(folder: &Path) -> Result<Self> {
        let about = folder.join("promises.json");
        let text = std::fs::read_to_string(&about).with_context(|| about.display().to_string())?;
        let mut history = Self { promises: serde_json::from_str(&text)?, ops: Vec::new(), notes: Vec::new() };
        let mut files: Vec<_> = std::fs::read_dir(folder)?
            .filter_map(|file| file.ok().map(|file| file.path()))
            .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
            .collect();
        files.sort();
        for file in files {
            history.read_file(&file).with_context(|| file.display().to_string())?;
        }
        history.ops.sort_by_key(|op| op.begin);
        history.notes.sort_by_key(|note| note.at);
        Ok(history)
    }

    fn read_file(&mut self, file: &Path) -> Result<()> {
        let mut open: HashMap<u64, usize> = HashMap::new();
        let mut lines = BufReader::new(File::open(file)?).lines().peekable();
        while let Some(line) = lines.next() {
            let line = line?;
            let parsed = match serde_json::from_str(&line) {
                Ok(parsed) => parsed,
                Err(_) if lines.peek().is_none() => break,
                Err(error) => return Err(anyhow!("{error}: {line}")),
            };
            match parsed {
                Line::Call { id, client, at, call } => {
                    open.insert(id, self.ops.len());
                    self.ops.push(Op { client, begin: at, end: None, call, answer: None });
                }
                Line::Answer { id, at, answer } => {
                    let at_index = open.remove(&id).context("an answer without a call")?;
                    self.ops[at_index].end = Some(at);
                    self.ops[at_index].answer = Some(answer);
                }
                Line::Note { client, at, note } => self.notes.push(Noted { client, at, note }),
            }
        }
        Ok(())
    }
}

/// Writes one process's part of a history.
#[derive(Debug)]
pub struct Recorder {
    file: Mutex<File>,
    next: AtomicU64,
}

impl Recorder {
    /// Begins a file.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create_new(true).append(true).open(path);
        let file = file.with_context(|| path.display().to_string())?;
        Ok(Self { file: Mutex::new(file), next: AtomicU64::new(0) })
    }

    /// Notes that a call begins, before it does. Returns its number.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn call(&self, client: Client, call: &Call) -> Result<u64> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.write(&Line::Call { id, client, at: now(), call: call.clone() })?;
        Ok(id)
    }

    /// Notes how a call was answered, at this time.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn answer(&self, id: u64, at: u64, answer: Answer) -> Result<()> {
        self.write(&Line::Answer { id, at, answer })
    }

    /// Notes what was seen at this time.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn note(&self, client: Client, at: u64, note: Note) -> Result<()> {
        self.write(&Line::Note { client, at, note })
    }

    fn write(&self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        let mut file = self.file.lock().map_err(|_| anyhow!("a writer of the history panicked"))?;
        // One write, so that a process that is killed leaves whole lines.
        file.write_all(text.as_bytes())?;
        Ok(())
    }
}
