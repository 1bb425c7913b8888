//! Counting what passed, failed and was skipped.

use std::fmt;
use std::ops::AddAssign;

/// How many tests or cases ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    pub(crate) const ONE_FAILED: Self = Self { passed: 0, failed: 1, skipped: 0 };

    pub(crate) fn skipped(count: usize) -> Self {
        Self { skipped: count as u64, ..Self::default() }
    }

    /// Counts the closing line of a test program, if this is one: Rust's own harness's, or the
    /// plain one of the conformance suite.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let line = line.trim();
        let counts = match line.strip_prefix("test result: ") {
            Some(rest) => rest.split_once(". ")?.1,
            None => line,
        };
        let mut tally = Self::default();
        let mut fields = 0;
        for field in counts.split([',', ';']) {
            let (count, what) = field.trim().split_once(' ')?;
            let count = match count.parse::<u64>() {
                Ok(count) => count,
                // `finished in 0.1s` ends the line of Rust's harness.
                Err(_) => break,
            };
            fields += 1;
            match what {
                "passed" => tally.passed += count,
                "failed" => tally.failed += count,
                "ignored" | "skipped" => tally.skipped += count,
                "measured" | "filtered out" => {}
                _ => return None,
            }
        }
        (fields >= 3).then_some(tally)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn closing_lines_are_counted_and_others_are_not() {
        let libtest = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 7 filtered out; \
             finished in 1.40s";
        let expected = Tally { passed: 12, failed: 3, skipped: 1 };
        assert_eq!(Tally::of_line(libtest), Some(expected));
        assert_eq!(Tally::of_line(&expected.to_string()), Some(expected));
        for line in ["", "test a ... ok", "3 passed, and that is fine", "running 3 tests", "1, 2"] {
            assert_eq!(Tally::of_line(line), None, "{line}");
        }
    }
}
