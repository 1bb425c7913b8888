//! Filling `{placeholders}` into command lines, environments and files.

use anyhow::{Result, bail};

/// Values for the placeholders of one text.
pub(crate) type Values<'a> = &'a [(&'a str, &'a str)];

/// Replaces every `{name}`; a name is small letters and underscores, so other braces stay as
/// they are. A placeholder that has no value is an error, not an empty string.
pub(crate) fn fill(text: &str, values: Values<'_>) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (before, from) = rest.split_at(open);
        out.push_str(before);
        let name = from[1..].split('}').next().unwrap_or_default();
        let is_name = !name.is_empty()
            && name.len() + 1 < from.len()
            && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        if !is_name {
            out.push('{');
            rest = &from[1..];
            continue;
        }
        let Some((_, value)) = values.iter().find(|(known, _)| *known == name) else {
            let known: Vec<_> = values.iter().map(|(known, _)| *known).collect();
            bail!("no placeholder is called {{{name}}} here; there are {}", known.join(", "));
        };
        out.push_str(value);
        rest = &from[name.len() + 2..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn fills_names_and_leaves_other_braces() {
        let values = [("name", "n1"), ("peers", "a,b")];
        let text = "--name={name} {peers}{name} ports { https = 1 } {{ Go }} {1} {";
        assert_eq!(fill(text, &values).unwrap(), "--name=n1 a,bn1 ports { https = 1 } {{ Go }} {1} {");
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known() {
        let error = fill("--x={nmae}", &[("name", "n1")]).unwrap_err().to_string();
        assert!(error.contains("{nmae}") && error.contains("there are name"), "{error}");
    }
}
