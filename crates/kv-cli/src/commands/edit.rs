//! `kv edit`: a value in an editor, put back only over the version that was read.
//!
//! The edit is in a file of its own until it is stored. Whatever goes wrong, that file stays and is named.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use bytes::Bytes;
use kv_core::{
    Entry, ErrorKind, Expiry, GetOptions, Key, Operation, Power, Precondition, PutOptions, PutResult,
    StoreExt,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{expiry, level};
use crate::ask;
use crate::child::{Signals, number};
use crate::cli::Edit;
use crate::exit::{self, Failure};
use crate::output::{Output, say};
use crate::session::Session;

/// The value and the version that an edit begins with.
struct Base {
    value: Bytes,
    precondition: Precondition,
    expiry: Expiry,
}

/// Whether the edit is stored, or why not.
enum Stored {
    Put(PutResult),
    /// Others changed the key meanwhile; this is how it is now, and what another attempt begins with.
    Conflict(Option<Entry>, Base),
}

/// Edits the value; always with exit code 0 where it does not fail.
pub(crate) async fn run(session: &Session, args: Edit) -> Result<u8, Failure> {
    let key = super::key(&args.key, Operation::Put)?;
    if session.is_read_only() {
        return Err(Failure::Usage(format!(
            "edit {key:?}: the edit could not be stored: this handle is read-only"
        )));
    }
    let mut signals = Signals::listen()?;
    let base = tokio::select! {
        biased;
        signal = signals.next() => return Err(Failure::Signal(number(signal))),
        base = begin(session, &key, args.create) => base?,
    };
    // Whoever edits may think for long, and others may need the same sled directory.
    session.close().await;
    let draft = Draft::new(&key, &base.value)?;
    // From here on the edit is only in that file.
    let done = edit(session, &key, base, &draft, &mut signals).await;
    match done {
        Ok(()) => draft.discard(),
        Err(_) if draft.is_untouched() => draft.discard(),
        Err(_) => say(&format!("kv: your edit is kept in {:?}", draft.path)),
    }
    done.map(|()| 0)
}

async fn edit(
    session: &Session,
    key: &Key,
    mut base: Base,
    draft: &Draft,
    signals: &mut Signals,
) -> Result<(), Failure> {
    draft.edit(signals).await?;
    if draft.is_untouched() {
        say("kv: the value was not changed");
        return Ok(());
    }
    loop {
        let value = draft.read()?;
        let session = session.again();
        let stored = tokio::select! {
            biased;
            signal = signals.next() => Err(Failure::Signal(number(signal))),
            stored = store(&session, key, &base, value) => stored,
        };
        session.close().await;
        let (now, next) = match stored? {
            Stored::Put(put) => {
                let mut out = Output::stdout();
                out.line(&format!("version {}", put.version))?;
                return out.flush();
            }
            Stored::Conflict(now, next) => (now, next),
        };
        let theirs = match &now {
            Some(entry) => format!("put version {}", entry.version),
            None => "deleted it".to_owned(),
        };
        let conflict = Failure::Incomplete {
            message: format!("edit {key:?}: others {theirs} meanwhile, and that was left as it is"),
            code: exit::CONFLICT,
        };
        if !ask::can() {
            return Err(conflict);
        }
        if let Some(entry) = &now {
            say(&format!("kv: their value is in {:?}", draft.beside(&entry.value)?));
        }
        let question = format!("Others {theirs} meanwhile. Edit yours again, and put it over that?");
        if !ask::yes(question).await? {
            return Err(conflict);
        }
        base = next;
        draft.edit(signals).await?;
    }
}

impl Base {
    async fn of(session: &Session, entry: Option<Entry>) -> Result<Self, Failure> {
        let Some(entry) = entry else {
            let precondition = Precondition::Absent;
            return Ok(Self { value: Bytes::new(), precondition, expiry: Expiry::Never });
        };
        let declared = session.store().await?.capabilities();
        let expiry = match declared.has(Power::KeepExpiry) {
            true => Expiry::Keep,
            false => expiry::of_entry(entry.expiry, declared)
                .map_err(|why| Failure::Usage(format!("edit {:?}: {why}", entry.key)))?,
        };
        Ok(Self { value: entry.value, precondition: Precondition::At(entry.version), expiry })
    }
}

/// Reads what is to be edited.
async fn begin(session: &Session, key: &Key, create: bool) -> Result<Base, Failure> {
    let Some(entry) = read(session, key).await? else {
        if create {
            return Base::of(session, None).await;
        }
        let below = level::below(session, key).await.map(|below| format!("; {below}")).unwrap_or_default();
        return Err(Failure::NotFound(format!(
            "edit {key:?}: there is no such key{below}; --create begins with an empty value"
        )));
    };
    if std::str::from_utf8(&entry.value).is_err() {
        return Err(Failure::Usage(format!(
            "edit {key:?}: the value is not text; kv get and kv put take it to a file and back"
        )));
    }
    Base::of(session, Some(entry)).await
}

async fn read(session: &Session, key: &Key) -> Result<Option<Entry>, Failure> {
    let mut options = GetOptions::default().with_expiry();
    options.timeout = session.timeout();
    let entry = session.store().await?.get_with(key, options);
    Ok(session.request(Operation::Get, key.as_str(), entry).await?)
}

/// Puts the edit over what it began with. A version that only renewed the same value is no conflict.
async fn store(session: &Session, key: &Key, base: &Base, value: Bytes) -> Result<Stored, Failure> {
    let mut precondition = base.precondition.clone();
    loop {
        let mut options = PutOptions::default().with_precondition(precondition).with_expiry(base.expiry);
        options.timeout = session.timeout();
        let put = session.store().await?.put_with(key, value.clone(), options);
        match session.request(Operation::Put, key.as_str(), put).await {
            Ok(put) => return Ok(Stored::Put(put)),
            Err(error) => match error.kind() {
                ErrorKind::PreconditionFailed { .. } | ErrorKind::AlreadyExists { .. } => {}
                _ => return Err(error.into()),
            },
        }
        match read(session, key).await? {
            Some(now) if now.value == base.value && base.precondition != Precondition::Absent => {
                precondition = Precondition::At(now.version);
            }
            now => {
                let next = Base::of(session, now.clone()).await?;
                return Ok(Stored::Conflict(now, next));
            }
        }
    }
}

/// The file that is edited.
struct Draft {
    path: PathBuf,
    before: Bytes,
}

impl Draft {
    fn new(key: &Key, value: &Bytes) -> Result<Self, Failure> {
        let failed = |error| Failure::io("cannot make a file to edit", error);
        // Editors choose how to show a file by the end of its name.
        let name = key.as_str().rsplit('/').next().unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let name: String = name.chars().map(|c| if plain(c) { c } else { '_' }).take(64).collect();
        let file = tempfile::Builder::new().prefix("kv-edit-").suffix(&format!("-{name}")).tempfile();
        let file = file.map_err(failed)?;
        fs::write(file.path(), value).map_err(failed)?;
        let path = file.into_temp_path().keep().map_err(|error| failed(error.error))?;
        Ok(Self { path, before: value.clone() })
    }

    /// What the file holds now. A line end that editors add to the last line is not part of the value, if
    /// that had none before.
    fn read(&self) -> Result<Bytes, Failure> {
        let mut value = fs::read(&self.path)
            .map_err(|error| Failure::io(format!("cannot read {:?}", self.path), error))?;
        let one_line_end = value.ends_with(b"\n") && !self.before.ends_with(b"\n");
        if one_line_end && !self.before.is_empty() {
            value.pop();
        }
        Ok(value.into())
    }

    fn is_untouched(&self) -> bool {
        self.read().is_ok_and(|value| value == self.before)
    }

    /// Another value in a file beside it, which nobody else can read either.
    fn beside(&self, value: &[u8]) -> Result<PathBuf, Failure> {
        let mut name = self.path.clone().into_os_string();
        name.push(".theirs");
        let path = PathBuf::from(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let written = file.and_then(|mut file| file.write_all(value));
        written.map_err(|error| Failure::io(format!("cannot write {path:?}"), error))?;
        Ok(path)
    }

    fn discard(self) {
        // What stays behind in the folder for such files does no harm.
        let _ = fs::remove_file(&self.path);
        let mut theirs = self.path.into_os_string();
        theirs.push(".theirs");
        let _ = fs::remove_file(theirs);
    }

    /// Runs the editor until it ends.
    async fn edit(&self, signals: &mut Signals) -> Result<(), Failure> {
        let editor = ["VISUAL", "EDITOR"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok().filter(|editor| !editor.trim().is_empty()));
        let editor = editor.unwrap_or_else(|| "vi".to_owned());
        // A shell, because the variable can hold arguments.
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{editor} \"$@\"")).arg(&editor).arg(&self.path);
        let mut child = command.spawn().map_err(|source| Failure::Spawn {
            command: editor.clone(),
            code: exit::OTHER,
            source,
        })?;
        let pid = i32::try_from(child.id()).map(Pid::from_raw).ok();
        let mut ended = tokio::task::spawn_blocking(move || child.wait());
        let mut told = None;
        let status: ExitStatus = loop {
            tokio::select! {
                biased;
                status = &mut ended => {
                    let status = status.map_err(|error| Failure::io("the editor was lost", error.into()))?;
                    break status.map_err(|error| Failure::io("cannot wait for the editor", error))?;
                }
                signal = signals.next() => match signal {
                    // The terminal sends these to the editor too, for which they have a meaning.
                    Signal::SIGINT | Signal::SIGQUIT => {}
                    signal => {
                        told = Some(signal);
                        if let Some(pid) = pid {
                            // An editor that has ended already hears nothing.
                            let _ = kill(pid, signal);
                        }
                    }
                },
            }
        };
        match (told, status.code()) {
            (Some(signal), _) => Err(Failure::Signal(number(signal))),
            (None, Some(0)) => Ok(()),
            (None, _) => Err(Failure::Incomplete {
                message: format!("the editor {editor:?} failed ({status}), and nothing was changed"),
                code: exit::OTHER,
            }),
        }
    }
}
