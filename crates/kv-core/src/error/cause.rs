//! The cause of an error: shared, and shown only with its text escaped.

use std::fmt;
use std::sync::Arc;

use crate::text::escaped;

type Foreign = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// The most links of a chain that are shown. A chain that never ends is somebody's defect.
const MOST: usize = 32;

/// One link of a chain of causes: the one `depth` below the first.
///
/// Foreign errors hand out their own causes, whose text nobody has escaped. So each link of the chain
/// gets a wrapper of its own, made when the chain enters an error.
#[derive(Clone)]
pub(crate) struct Cause {
    first: Foreign,
    depth: usize,
    next: Option<Box<Cause>>,
}

impl Cause {
    /// The chain that begins with `first`.
    pub(crate) fn new(first: Foreign) -> Self {
        let mut links = 0;
        let mut at = first.source();
        while let Some(cause) = at.filter(|_| links < MOST) {
            links += 1;
            at = cause.source();
        }
        let mut next = None;
        for depth in (1..=links).rev() {
            next = Some(Box::new(Self { first: Arc::clone(&first), depth, next }));
        }
        Self { first, depth: 0, next }
    }

    /// The error this link stands for, as it came.
    pub(crate) fn original(&self) -> &(dyn std::error::Error + 'static) {
        let mut at: &(dyn std::error::Error + 'static) = &*self.first;
        for _ in 0..self.depth {
            match at.source() {
                Some(cause) => at = cause,
                None => break,
            }
        }
        at
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(self.original().to_string()))
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(format!("{:?}", self.original())))
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.next.as_deref().map(|cause| cause as _)
    }
}
