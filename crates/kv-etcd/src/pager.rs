//! Pages of a range, all of one revision, sized by what the records take.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{ErrorKind, Result};

use crate::client::error;
use crate::client::{Client, Page, Range, Read, Record, behind};

/// What a page aims at, in bytes and in records. For each page the server counts all that is left, so
/// many small pages cost more than few.
const PAGE_BYTES: usize = 2 << 20;
const PAGE_RECORDS: usize = 16_384;
const LEAST_PAGE_BYTES: usize = 16 << 10;
/// The first page, as long as nobody knows how large records are.
const FIRST_PAGE: usize = 256;
/// The same when earlier lists had small ones: those here may be larger, and the server takes up a whole
/// page before it finds that it cannot be sent.
const MOST_IN_FIRST_PAGE: usize = 1024;
/// The first page of keys without values.
const FIRST_PAGE_OF_KEYS: usize = 4096;
/// Pages through a range at the revision of its first page.
pub(crate) struct Pager {
    client: Arc<Client>,
    /// What is left.
    range: Range,
    read: Read,
    page: usize,
    /// What a page aims at; less on a slow link.
    bytes: usize,
    timeout: Duration,
}

impl Pager {
    pub(crate) fn new(client: Arc<Client>, read: Read, timeout: Duration) -> Self {
        let page = match client.listed_record.load(Ordering::Relaxed) {
            _ if read.keys_only => FIRST_PAGE_OF_KEYS,
            0 => FIRST_PAGE,
            bytes => (PAGE_BYTES / bytes).clamp(1, MOST_IN_FIRST_PAGE),
        };
        Self { client, range: read.range.clone(), read, page, bytes: PAGE_BYTES, timeout }
    }

    /// The next page of at most `limit` records. `more` says whether there is another.
    pub(crate) async fn next(&mut self, limit: usize) -> Result<Page> {
        let deadline = Deadline::after(self.timeout);
        loop {
            let mut read = self.read.clone();
            read.range = self.range.clone();
            read.limit = i64::try_from(self.page.min(limit).max(1)).unwrap_or(i64::MAX);
            // A page that does not arrive in half of the time is too large for the link, and there is
            // time for a smaller one.
            let left = deadline.remaining()?;
            let share = if read.limit > 1 { left / 2 } else { left };
            match self.client.read(Deadline::after(share), &read).await {
                Err(error) if error::answer_too_large(&error) && read.limit > 1 => self.shrink(&read),
                Err(error) if *error.kind() == ErrorKind::Timeout => {
                    self.shrink(&read);
                    self.bytes = (self.bytes / 8).max(LEAST_PAGE_BYTES);
                    // Whoever asks again gets the smaller page.
                    if deadline.remaining().is_err() {
                        return Err(error);
                    }
                }
                // The member that answers now lags behind the one that gave the first page.
                Err(error) if error::is_future(&error) && self.read.stale => self.read.stale = false,
                Err(error) => return Err(error),
                Ok(page) => {
                    let last = page.records.last().map(|record| &record.name);
                    if page.more && last.is_none_or(|last| *last < self.range.start) {
                        return Err(error::nonsense("a page that leads nowhere"));
                    }
                    // The pages after the first show the same state.
                    self.read.revision =
                        if self.read.revision > 0 { self.read.revision } else { page.revision };
                    self.adapt(&page);
                    if let Some(last) = page.records.last() {
                        self.range.start = [&last.name[..], &[0]].concat();
                    }
                    return Ok(page);
                }
            }
        }
    }

    /// The revision of all its pages, once there is a first one.
    pub(crate) fn revision(&self) -> i64 {
        self.read.revision
    }

    /// Asks for less than it just did.
    fn shrink(&mut self, asked: &Read) {
        self.page = (usize::try_from(asked.limit).unwrap_or(2) / 8).max(1);
    }

    /// Goes on behind everything below `path`, with a page of this many records.
    pub(crate) fn skip(&mut self, path: &str, page: usize) {
        self.range.start = self.range.start.clone().max(behind(path));
        self.page = page;
    }

    /// The same with another first page.
    pub(crate) fn with_page(mut self, page: usize) -> Self {
        self.page = page;
        self
    }

    /// Sizes the next page by what the records of this one took.
    fn adapt(&mut self, page: &Page) {
        let Some(bytes) =
            page.records.iter().map(Record::size).sum::<usize>().checked_div(page.records.len())
        else {
            return;
        };
        let bytes = bytes.max(1);
        if !self.read.keys_only {
            // Large records count at once, small ones only little by little.
            let before = self.client.listed_record.load(Ordering::Relaxed);
            self.client.listed_record.store(bytes.max((before + bytes) / 2), Ordering::Relaxed);
        }
        let fits = self.bytes / bytes;
        // One page of small values does not promise that the next is the same.
        self.page = fits.clamp(1, PAGE_RECORDS).min(self.page.saturating_mul(8));
    }
}
