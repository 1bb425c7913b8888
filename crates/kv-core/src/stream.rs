//! What the streams of this crate share.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

/// A stream of `T`, whatever is behind it.
pub(crate) type Items<T> = Pin<Box<dyn Stream<Item = T> + Send>>;

/// The items of a stream, each changed by a function.
pub(crate) struct Map<T, F> {
    items: Items<T>,
    change: F,
}

impl<T, F> Map<T, F> {
    pub(crate) fn new(items: Items<T>, change: F) -> Self {
        Self { items, change }
    }
}

impl<T, F: FnMut(T) -> T + Unpin> Stream for Map<T, F> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let this = &mut *self;
        this.items.as_mut().poll_next(cx).map(|item| item.map(&mut this.change))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}
