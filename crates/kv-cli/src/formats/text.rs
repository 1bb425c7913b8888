//! The text of an export, which is read twice: once to check every row, and once to import them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek};

use crate::exit::Failure;

/// The mark some programs write before UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// How much of a text can be looked at at once, to find out what it is.
const BEGINNING: u64 = 256;

/// A file, or a copy of what was not one.
#[derive(Debug)]
pub(crate) struct Text(File);

impl Text {
    /// The text in a file.
    pub(super) fn file(file: File) -> Self {
        Self(file)
    }

    /// The text of a stream, copied to a temporary file without a name.
    pub(super) fn copy(mut reader: impl Read) -> io::Result<Self> {
        let mut file = tempfile::tempfile()?;
        io::copy(&mut reader, &mut file)?;
        Ok(Self(file))
    }

    /// The text from its beginning. One reader at a time: they share their place in the file.
    pub(super) fn reader(&self) -> Result<impl BufRead, Failure> {
        let begin = || {
            let mut file = self.0.try_clone()?;
            file.rewind()?;
            without_mark(BufReader::new(file))
        };
        begin().map_err(|error| Failure::io("cannot read the source", error))
    }
}

/// The same text without a mark at its beginning.
pub(super) fn without_mark<R: BufRead>(mut reader: R) -> io::Result<impl BufRead> {
    let mut begin = Vec::new();
    (&mut reader).take(BEGINNING).read_to_end(&mut begin)?;
    if begin.starts_with(MARK) {
        begin.drain(..MARK.len());
    }
    Ok(Cursor::new(begin).chain(reader))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_skipped_once_and_only_at_the_beginning() {
        for (text, expected) in [
            (&b"\xef\xbb\xbf{}"[..], &b"{}"[..]),
            (b"\xef\xbb\xbf", b""),
            (b"\xef\xbb{}", b"\xef\xbb{}"),
            (b"{}\xef\xbb\xbf", b"{}\xef\xbb\xbf"),
            (b"", b""),
            (b"{", b"{"),
        ] {
            let mut read = Vec::new();
            without_mark(BufReader::with_capacity(1, text)).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn a_text_can_be_read_again() {
        let text = Text::copy(&b"\xef\xbb\xbfrows"[..]).unwrap();
        for _ in 0..2 {
            let mut read = String::new();
            text.reader().unwrap().read_to_string(&mut read).unwrap();
            assert_eq!(read, "rows");
        }
    }
}
