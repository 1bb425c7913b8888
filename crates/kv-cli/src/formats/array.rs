//! The elements of a JSON array, cut out of a stream one by one, so that neither the length of the
//! array nor that of an element costs memory.

use std::io::{self, BufRead};

/// Why there are no more elements.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("{0}")]
    NoArray(&'static str),
}

/// One element.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Element<'b> {
    /// Its text; whether that is JSON is not looked at.
    Text(&'b [u8]),
    /// It is longer than wanted, and was skipped.
    TooLong,
}

/// A JSON array that is read.
pub(super) struct Elements<R> {
    reader: R,
    longest: usize,
    text: Vec<u8>,
    begun: bool,
    ended: bool,
    /// Whether more may stand behind the array.
    within: bool,
}

impl<R: BufRead> Elements<R> {
    /// The elements of the array this reads; one that has more than `longest` bytes is not kept.
    pub(super) fn new(reader: R, longest: usize) -> Self {
        Self { reader, longest, text: Vec::new(), begun: false, ended: false, within: false }
    }

    /// The same for an array within something else, which is not read on behind it.
    pub(super) fn within(reader: R, longest: usize) -> Self {
        Self { within: true, ..Self::new(reader, longest) }
    }

    /// The next element, or `None` behind the last.
    pub(super) fn next(&mut self) -> Result<Option<Element<'_>>, Broken> {
        if self.ended {
            return Ok(None);
        }
        let first = !self.begun;
        if first {
            match self.after_blanks()? {
                Some(b'[') => self.reader.consume(1),
                _ => return Err(Broken::NoArray("it does not begin with [")),
            }
            self.begun = true;
        }
        // An array can be empty, but no element of one can.
        if first && self.after_blanks()? == Some(b']') {
            self.reader.consume(1);
            self.end()?;
            return Ok(None);
        }
        let (length, last) = self.element()?;
        if last {
            self.end()?;
        }
        Ok(Some(if length > self.longest { Element::TooLong } else { Element::Text(&self.text) }))
    }

    /// Reads up to the comma or bracket behind an element, and tells how long it is and whether it
    /// is the last.
    fn element(&mut self) -> Result<(usize, bool), Broken> {
        self.text.clear();
        let (mut length, mut depth) = (0_usize, 0_usize);
        let (mut in_text, mut escaped) = (false, false);
        loop {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                return Err(Broken::NoArray("it ends before its last ]"));
            }
            let end = bytes.iter().position(|byte| {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if in_text => escaped = true,
                    b'"' => in_text = !in_text,
                    _ if in_text => {}
                    b'{' | b'[' => depth += 1,
                    b',' | b']' if depth == 0 => return true,
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                false
            });
            let part = end.unwrap_or(bytes.len());
            length = length.saturating_add(part);
            if length <= self.longest {
                self.text.extend_from_slice(bytes.get(..part).unwrap_or_default());
            }
            let last = end.and_then(|end| bytes.get(end)).map(|byte| *byte == b']');
            self.reader.consume(part + usize::from(last.is_some()));
            if let Some(last) = last {
                return Ok((length, last));
            }
        }
    }

    /// Behind the array there is nothing.
    fn end(&mut self) -> Result<(), Broken> {
        self.ended = true;
        if self.within {
            return Ok(());
        }
        match self.after_blanks()? {
            None => Ok(()),
            Some(_) => Err(Broken::NoArray("there is more behind its last ]")),
        }
    }

    /// The next byte that is not blank, which stays to be read.
    fn after_blanks(&mut self) -> Result<Option<u8>, Broken> {
        loop {
            let bytes = self.reader.fill_buf()?;
            let blank = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let next = bytes.get(blank).copied();
            let done = next.is_some() || bytes.is_empty();
            self.reader.consume(blank);
            if done {
                return Ok(next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn elements(text: &str, longest: usize) -> Result<Vec<Option<String>>, String> {
        // One byte at a time: where a buffer ends means nothing.
        let mut elements = Elements::new(BufReader::with_capacity(1, text.as_bytes()), longest);
        let mut found = Vec::new();
        while let Some(element) = elements.next().map_err(|broken| broken.to_string())? {
            found.push(match element {
                Element::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap().trim().to_owned()),
                Element::TooLong => None,
            });
        }
        Ok(found)
    }

    #[test]
    fn elements_are_cut_where_they_end() {
        for (text, expected) in [
            ("[]", &[][..]),
            (" [ ] \n", &[]),
            ("[1,2]", &["1", "2"]),
            (r#"[{"a":"],[{\"","b":[1,{}]} , "x\\"]"#, &[r#"{"a":"],[{\"","b":[1,{}]}"#, r#""x\\""#]),
            ("[,]", &["", ""]),
        ] {
            let found = elements(text, 100).unwrap();
            assert_eq!(
                found.iter().map(|text| text.as_deref().unwrap()).collect::<Vec<_>>(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_too_long_is_skipped_and_not_kept() {
        let long = "y".repeat(1000);
        let text = format!(r#"["x","{long}","z"]"#);
        assert_eq!(elements(&text, 5).unwrap(), [Some(r#""x""#.to_owned()), None, Some(r#""z""#.to_owned())]);
        let mut elements = Elements::new(text.as_bytes(), 5);
        while elements.next().unwrap().is_some() {}
        assert!(elements.text.capacity() < 1000);
    }

    #[test]
    fn what_is_no_array_is_told() {
        for text in ["", "{}", "[", "[1", "[1,", "[\"]", "[] []", "[1]]"] {
            assert!(elements(text, 100).is_err(), "{text}");
        }
    }
}
