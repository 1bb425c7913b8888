//! Contexts: stores with a name, in a file of their own. Secrets are never in it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use etcetera::BaseStrategy;
use kv_core::StoreUrl;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::exit::Failure;

/// What stands before the name of a context in place of a URL.
const MARK: char = '@';
/// Names another file than the one in the configuration directory.
const FILE: &str = "KV_CONTEXTS";
/// Parameters of a URL that are secrets themselves.
const SECRETS: [&str; 2] = ["password", "token"];

/// One store under a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Its URL, without secrets.
    pub(crate) store: String,
    /// Refuse every write.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) read_only: bool,
    /// A shell command that prints the password or token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret_command: Option<String>,
}

/// All contexts, and which of them is used where no store is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

impl Contexts {
    /// Those in the file; none where there is no file.
    pub(crate) fn read() -> Result<Self, Failure> {
        let Some(path) = path() else { return Ok(Self::default()) };
        Self::read_from(&path)
    }

    fn read_from(path: &Path) -> Result<Self, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::io(format!("cannot read {path:?}"), error)),
        };
        let contexts: Self = toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            // The line itself could hold a secret that somebody wrote there.
            Failure::Usage(format!("{path:?}, line {line}: {}", error.message()))
        })?;
        Ok(contexts)
    }

    /// Writes the file anew, whole or not at all, for nobody else to read.
    pub(crate) fn write(&self) -> Result<(), Failure> {
        let path = path().ok_or_else(|| {
            Failure::Usage(format!("there is no place for contexts: {FILE} names a file for them"))
        })?;
        let failed = |error| Failure::io(format!("cannot write {path:?}"), error);
        let beside = path.parent().filter(|beside| !beside.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(beside).map_err(failed)?;
        let text = toml::to_string(self).map_err(|error| failed(std::io::Error::other(error)))?;
        let mut file = NamedTempFile::new_in(beside).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// The context with this name.
    pub(crate) fn get(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<_> = self.contexts.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            Failure::NotFound(format!("there is no context {name:?}; known: {known}"))
        })
    }
}

impl Context {
    /// Refuses what cannot be a context: a URL that is none, or one with a secret in it.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let url = StoreUrl::parse(&self.store)?;
        let secret = has_password(&self.store)
            || SECRETS.iter().any(|name| matches!(url.params().secret(name), Ok(Some(_))));
        if secret {
            return Err(Failure::Usage(
                "the URL holds a secret, and contexts are kept in a file: leave it out and give --secret-command, or \
                 name a file or a variable in the URL (password_file, password_env, token_file, token_env)"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// The URL with the secret that the command prints.
    fn url(&self) -> Result<String, Failure> {
        let Some(command) = &self.secret_command else { return Ok(self.store.clone()) };
        let secret = secret_of(command)?;
        let name = if self.store.starts_with("consul") { "token" } else { "password" };
        let mark = if self.store.contains('?') { '&' } else { '?' };
        Ok(format!("{}{mark}{name}={}", self.store, utf8_percent_encode(&secret, NON_ALPHANUMERIC)))
    }
}

/// Whether a password stands in the authority of a URL, as in `etcd://user:password@host`.
fn has_password(url: &str) -> bool {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}

/// A store as it was named: by a URL, or by `@NAME` of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) url: String,
    pub(crate) read_only: bool,
}

impl Named {
    /// What this argument names.
    pub(crate) fn new(argument: String) -> Result<Self, Failure> {
        match argument.strip_prefix(MARK) {
            None => Ok(Self { url: argument, read_only: false }),
            Some(name) => Self::of(Contexts::read()?.get(name)?),
        }
    }

    /// The context that is used where no store is named; `None` where none is.
    pub(crate) fn current() -> Result<Option<Self>, Failure> {
        let contexts = Contexts::read()?;
        let Some(name) = &contexts.current else { return Ok(None) };
        Self::of(contexts.get(name)?).map(Some)
    }

    /// What this argument names, as far as that is known without asking for a secret.
    pub(crate) fn unasked(argument: Option<String>) -> Option<Self> {
        let contexts = Contexts::read().ok()?;
        let name = match &argument {
            Some(argument) => match argument.strip_prefix(MARK) {
                Some(name) => name,
                None => return Some(Self { url: argument.clone(), read_only: false }),
            },
            None => contexts.current.as_deref()?,
        };
        let context = contexts.contexts.get(name).filter(|context| context.secret_command.is_none())?;
        Self::of(context).ok()
    }

    fn of(context: &Context) -> Result<Self, Failure> {
        Ok(Self { url: context.url()?, read_only: context.read_only })
    }
}

/// What the command prints, without the line end. It can ask for something on the terminal.
fn secret_of(command: &str) -> Result<String, Failure> {
    let failed = |error| Failure::io("cannot run the context's secret command", error);
    let child = Command::new("sh").arg("-c").arg(command).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let done = child.wait_with_output().map_err(failed)?;
    if !done.status.success() {
        return Err(Failure::io(
            "the context's secret command failed",
            std::io::Error::other(done.status.to_string()),
        ));
    }
    let text = String::from_utf8(done.stdout).ok().map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
    text.filter(|text| !text.is_empty()).ok_or_else(|| {
        Failure::Usage(
            "the context's secret command printed no text, where a password or token was expected".to_owned(),
        )
    })
}

/// Where the file is.
fn path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(FILE).filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let base = etcetera::choose_base_strategy().ok()?;
    Some(base.config_dir().join("kv").join("contexts.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(store: &str) -> Context {
        Context { store: store.to_owned(), ..Context::default() }
    }

    #[test]
    fn a_url_with_a_secret_is_no_context() {
        for url in ["etcd://root:hush@h/a", "etcd://root@h?password=hush", "consul://h?token=hush", "here"] {
            let failure = context(url).check().unwrap_err();
            assert_eq!(failure.code(), crate::exit::USAGE, "{url}");
            assert!(!failure.to_string().contains("hush"), "{failure}");
        }
        for url in ["etcd://root@h/a?password_file=x", "consul://h?token_env=X", "sled:/a:b@c", "mem:"] {
            context(url).check().unwrap();
        }
    }

    #[test]
    fn the_secret_of_a_command_joins_the_url() {
        let with = |store, command: &str| {
            Context { secret_command: Some(command.to_owned()), ..context(store) }.url()
        };
        assert_eq!(with("etcd://root@h", "echo 'a&b'").unwrap(), "etcd://root@h?password=a%26b");
        assert_eq!(with("consul://h?timeout=5s", "echo t").unwrap(), "consul://h?timeout=5s&token=t");
        let failure = with("consul://h", "exit 3").unwrap_err();
        assert_eq!(failure.code(), crate::exit::OTHER);
        assert_eq!(with("consul://h", "true").unwrap_err().code(), crate::exit::USAGE);
    }

    #[test]
    fn a_file_is_read_back_and_nonsense_in_it_is_told() {
        let mut contexts = Contexts { current: Some("prod".to_owned()), ..Contexts::default() };
        let secret_command = Some("pass show x".to_owned());
        let prod = Context { read_only: true, secret_command, ..context("etcd://h") };
        contexts.contexts.insert("prod".to_owned(), prod);
        contexts.contexts.insert("a b".to_owned(), context("mem:"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contexts.toml");
        fs::write(&path, toml::to_string(&contexts).unwrap()).unwrap();
        assert_eq!(Contexts::read_from(&path).unwrap(), contexts);
        assert_eq!(Contexts::read_from(&dir.path().join("none")).unwrap(), Contexts::default());

        fs::write(&path, "[contexts.a]\nstore = \"mem:\"\npasword = \"hush\"\n").unwrap();
        let told = Contexts::read_from(&path).unwrap_err().to_string();
        assert!(told.contains("line 3") && told.contains("pasword") && !told.contains("hush"), "{told}");
    }
}
