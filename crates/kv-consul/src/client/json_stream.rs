//! Takes a JSON array apart while it arrives, so that a list of any size needs the memory of one item.

use bytes::{Bytes, BytesMut};
use kv_core::Result;

use crate::client::error::protocol;

/// The largest item: a value of Consul's own limit of 512 KiB in base64, with its key, and room.
const MAX_ITEM: usize = 2 << 20;

/// The most that may stand between two items, or before the first.
const MAX_BETWEEN: usize = 64 << 10;

/// Yields the items of every array whose items lie at one depth: 1 for `[…]`, 2 for `{"Results":[…]}`.
///
/// It finds where an item begins and ends and leaves it to the JSON parser whether it is one.
#[derive(Debug)]
pub(crate) struct JsonStream {
    depth: usize,
    buffer: BytesMut,
    /// How much of the buffer has been looked at.
    scanned: usize,
    /// Where in the buffer the current item begins.
    start: Option<usize>,
    /// How much was passed over since the last item.
    between: usize,
    /// The brackets that are open.
    open: Vec<u8>,
    in_string: bool,
    escaped: bool,
    done: bool,
}

impl JsonStream {
    /// A stream for items at this depth.
    pub(crate) fn new(depth: usize) -> Self {
        Self {
            depth,
            buffer: BytesMut::new(),
            scanned: 0,
            start: None,
            between: 0,
            open: Vec::new(),
            in_string: false,
            escaped: false,
            done: false,
        }
    }

    /// Takes what arrived next.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole item, if it is there.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(&byte) = self.buffer.get(self.scanned) {
            let at = self.scanned;
            self.scanned += 1;
            if self.start.is_none() {
                self.between += 1;
                if self.between > MAX_BETWEEN {
                    return Err(protocol("the JSON document is not the array that was expected"));
                }
            }
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if let Some(item) = self.item_ends(at + 1) {
                            return Ok(Some(item));
                        }
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b',' => {}
                _ if self.done => return Err(protocol("there is more behind the end of the JSON document")),
                _ if self.open.is_empty() && byte != self.outermost() => {
                    return Err(protocol("the JSON document is not of the kind that was expected"));
                }
                b'{' | b'[' => {
                    self.item_begins(at);
                    self.open.push(byte);
                    if self.open.len() > 16 {
                        return Err(protocol("the JSON document is nested too deeply"));
                    }
                }
                b'}' | b']' => {
                    let opening = if byte == b'}' { b'{' } else { b'[' };
                    if self.open.pop() != Some(opening) {
                        return Err(protocol("the brackets of the JSON document do not match"));
                    }
                    self.done = self.open.is_empty();
                    if let Some(item) = self.item_ends(at + 1) {
                        return Ok(Some(item));
                    }
                }
                b'"' => {
                    self.item_begins(at);
                    self.in_string = true;
                }
                _ if self.at_items() && self.start.is_none() => {
                    return Err(protocol("an item of the JSON array is neither an object nor a text"));
                }
                _ => {}
            }
        }
        match self.start {
            None => {
                self.buffer.clear();
                self.scanned = 0;
            }
            Some(start) if self.buffer.len() - start > MAX_ITEM => {
                return Err(protocol("an item of the JSON array is larger than any key can be"));
            }
            Some(_) => {}
        }
        Ok(None)
    }

    /// Checks that the document was whole.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.done { Ok(()) } else { Err(protocol("the JSON document ends in the middle")) }
    }

    /// What the document begins with.
    fn outermost(&self) -> u8 {
        if self.depth == 1 { b'[' } else { b'{' }
    }

    fn at_items(&self) -> bool {
        self.open.len() == self.depth && self.open.last() == Some(&b'[')
    }

    fn item_begins(&mut self, at: usize) {
        if self.at_items() && self.start.is_none() {
            self.start = Some(at);
        }
    }

    fn item_ends(&mut self, end: usize) -> Option<Bytes> {
        if !self.at_items() {
            return None;
        }
        let start = self.start.take()?;
        self.between = 0;
        let item = self.buffer.split_to(end).freeze().slice(start..);
        self.scanned = 0;
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(depth: usize, text: &str, step: usize) -> Result<Vec<String>> {
        let mut stream = JsonStream::new(depth);
        let mut items = Vec::new();
        for chunk in text.as_bytes().chunks(step) {
            stream.push(chunk);
            while let Some(item) = stream.next()? {
                items.push(String::from_utf8(item.to_vec()).unwrap());
            }
        }
        stream.finish()?;
        Ok(items)
    }

    #[test]
    fn items_come_whole_however_the_bytes_arrive() {
        let text = r#" [ {"Key":"a]}\"","Value":[1,{"x":null}]} , "b\\", {} ] "#;
        for step in 1..text.len() {
            let items = split(1, text, step).unwrap();
            assert_eq!(items, [r#"{"Key":"a]}\"","Value":[1,{"x":null}]}"#, r#""b\\""#, "{}"], "step {step}");
        }
        assert!(split(1, "[]", 1).unwrap().is_empty());
    }

    #[test]
    fn items_of_an_inner_array_are_found() {
        let text = r#"{"Results":[{"KV":{"Key":"a"}},{"KV":{}}],"Errors":null,"Index":0}"#;
        for step in 1..text.len() {
            assert_eq!(split(2, text, step).unwrap(), [r#"{"KV":{"Key":"a"}}"#, r#"{"KV":{}}"#]);
        }
        assert!(split(2, r#"{"Results":null,"Errors":null}"#, 3).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_document_is_an_error() {
        for text in ["", "[", "[{}", "[}", "[]]", "[1]", "[] []", "]", r#"["a"#] {
            assert!(split(1, text, 1).is_err(), "{text}");
        }
        assert!(split(2, r#"[{"Key":[]}]"#, 1).is_err());
        let deep = "[".repeat(100);
        assert!(split(1, &deep, 7).is_err());
    }

    #[test]
    fn an_endless_item_is_cut_off() {
        let mut stream = JsonStream::new(1);
        stream.push(b"[\"");
        let chunk = vec![b'x'; 1 << 16];
        let mut pushed = 0;
        while stream.next().is_ok() {
            stream.push(&chunk);
            pushed += chunk.len();
            assert!(pushed < 2 * MAX_ITEM);
        }
        for (depth, begin, piece) in
            [(1, "", "x"), (1, "[", " "), (2, r#"{"Results":"#, "1"), (2, "{", "\"\":[],")]
        {
            let mut stream = JsonStream::new(depth);
            stream.push(begin.as_bytes());
            let mut pushed = 0;
            while stream.next().is_ok() {
                stream.push(piece.repeat(1000).as_bytes());
                pushed += 1;
                assert!(pushed < 1000, "{begin} {piece}");
            }
        }
    }
}
