//! The parameters of a store URL, taken one by one.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Operation, Result};
use crate::key::Prefix;
use crate::secret::Secret;

/// The parameters of a URL. A driver takes the ones it knows and then calls [`finish`](Self::finish),
/// so that nothing is ignored.
///
/// No error repeats the name of a parameter nobody asked for, nor a value that can be a secret: in a
/// mistyped URL the rest of a password looks like a parameter.
#[derive(Clone)]
pub struct Params {
    scheme: String,
    /// What nobody took yet, with its place in the URL, from 1.
    given: Vec<(usize, String, String)>,
    password: Option<Secret>,
    /// What was asked for so far.
    known: BTreeSet<String>,
}

impl Params {
    pub(crate) fn new(scheme: &str, params: &[(String, String)], password: Option<Secret>) -> Self {
        let given =
            params.iter().enumerate().map(|(at, (name, value))| (at + 1, name.clone(), value.clone()));
        Self { scheme: scheme.to_owned(), given: given.collect(), password, known: BTreeSet::new() }
    }

    /// Takes the parameter `name`.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if it was given twice.
    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        if !self.known.contains(name) {
            self.known.insert(name.to_owned());
        }
        let mut found = None;
        while let Some(at) = self.given.iter().position(|(_, given, _)| given == name) {
            if found.replace(self.given.remove(at).2).is_some() {
                return Err(bad(name, "is given twice"));
            }
        }
        Ok(found)
    }

    /// Takes the parameter `name` as whatever can be parsed from text.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if it cannot be parsed, or was given twice.
    pub fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Result<Option<T>> {
        self.text(name)?
            .map(|text| text.parse().map_err(|error| bad(name, &format!("is wrong: {error}"))))
            .transpose()
    }

    /// Takes the parameter `name` as `true` or `false`; a bare name is `true`.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for anything else.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        self.text(name)?
            .map(|text| match text.as_str() {
                "" | "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(bad(name, "must be true or false")),
            })
            .transpose()
    }

    /// Takes the parameter `name` as a time above zero, such as `5s` or `1m30s`.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for anything else.
    pub fn duration(&mut self, name: &str) -> Result<Option<Duration>> {
        self.text(name)?
            .map(|text| match humantime::parse_duration(&text) {
                Ok(duration) if !duration.is_zero() => Ok(duration),
                Ok(_) => Err(bad(name, "must be more than zero")),
                // Its own words repeat what stands behind the number.
                Err(_) => Err(bad(name, "is not a time such as 500ms, 5s or 1m30s")),
            })
            .transpose()
    }

    /// Takes the parameter `name` as a namespace, for URLs whose path is something else.
    ///
    /// # Errors
    ///
    /// `InvalidKey` if it breaks the rules for keys or is too long.
    pub fn namespace(&mut self, name: &str) -> Result<Prefix> {
        namespace(&self.text(name)?.unwrap_or_default())
    }

    /// Takes a secret: the parameter `name` itself, the file `name_file` names (a line end is cut
    /// off), or the environment variable `name_env` names. `password` may also stand before the
    /// hosts.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` if it is given in more than one way, or the file or variable cannot be read.
    pub fn secret(&mut self, name: &str) -> Result<Option<Secret>> {
        let in_authority = if name == "password" { self.password.take() } else { None };
        let direct = self.text(name)?.map(Secret::new);
        let from_file = self.text(&format!("{name}_file"))?;
        let from_env = self.text(&format!("{name}_env"))?;
        let given = usize::from(in_authority.is_some())
            + usize::from(direct.is_some())
            + usize::from(from_file.is_some())
            + usize::from(from_env.is_some());
        if given > 1 {
            return Err(bad(name, "is given in more than one way"));
        }
        // Neither the file nor the variable is repeated: people put the secret itself there.
        if let Some(path) = from_file {
            let name = format!("{name}_file");
            let text = std::fs::read_to_string(&path).map_err(|error| {
                let unreadable = match Error::out_of_files(&error) {
                    Some(out) => out.with_operation(Operation::Open),
                    None => bad(&name, "names a file that cannot be read as text"),
                };
                unreadable.with_source(error)
            })?;
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            let text = text.strip_suffix('\n').unwrap_or(text);
            return Ok(Some(Secret::new(text.strip_suffix('\r').unwrap_or(text))));
        }
        if let Some(variable) = from_env {
            let text = std::env::var(&variable).map_err(|_| {
                bad(&format!("{name}_env"), "names an environment variable that is not set to text")
            })?;
            return Ok(Some(Secret::new(text)));
        }
        Ok(in_authority.or(direct))
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    ///
    /// `InvalidConfig` for a parameter nobody took or a password nobody asked for, listing the parameters
    /// that were asked for.
    pub fn finish(self) -> Result<()> {
        let what = match (self.given.first(), &self.password) {
            (Some((at, name, _)), _) => {
                let meant = self.known.iter().find(|known| is_near(known, name));
                let meant = meant.map(|known| format!(", perhaps {known}=")).unwrap_or_default();
                format!("parameter number {at} of the URL is not one that this store knows{meant}")
            }
            (None, Some(_)) => "the URL has a password, and this store takes none".to_owned(),
            (None, None) => return Ok(()),
        };
        let known: Vec<&str> = self.known.iter().map(String::as_str).collect();
        let known = match known.as_slice() {
            [] => format!("{}: URLs take no parameters", self.scheme),
            known => format!("{}: URLs take {}", self.scheme, known.join(", ")),
        };
        let takes_secret = self.known.iter().any(|name| name.ends_with("_env"));
        let hint = if takes_secret { "; an & in a password or token is written %26" } else { "" };
        Err(Error::invalid_config(format!("{what}; {known}{hint}")).with_operation(Operation::Open))
    }
}

/// Whether `given` is `known` with a slip of the pen: one letter more, less or another, or two
/// neighbours swapped.
fn is_near(known: &str, given: &str) -> bool {
    let (known, given): (Vec<char>, Vec<char>) = (known.chars().collect(), given.chars().collect());
    let same = known.iter().zip(&given).take_while(|(a, b)| a == b).count();
    let (known, given) = (&known[same..], &given[same..]);
    match (known, given) {
        ([], [_]) | ([_], []) => true,
        ([a, b, rest @ ..], [c, d, other @ ..]) if a == d && b == c && rest == other => true,
        (known, given) => {
            let (behind, other) = (known.get(1..), given.get(1..));
            (behind.is_some() && behind == other) || behind == Some(given) || other == Some(known)
        }
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Params").field("known", &self.known).finish_non_exhaustive()
    }
}

fn bad(name: &str, what: &str) -> Error {
    Error::invalid_config(format!("the URL parameter {name:?} {what}")).with_operation(Operation::Open)
}

/// Text as the namespace of a store. An error does not repeat it: in a mistyped URL it can be anything.
pub(crate) fn namespace(text: &str) -> Result<Prefix> {
    let checked = Prefix::new(text).and_then(|prefix| prefix.check_namespace().map(|()| prefix));
    checked.map_err(|error| {
        Error::new(error.kind().clone()).with_operation(Operation::Open).with_detail("in the namespace")
    })
}
