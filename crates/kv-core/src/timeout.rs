//! The deadline that every call can be given.

/// The setter every options struct shares.
macro_rules! timeout_setter {
    () => {
        /// The same with a deadline of its own, in place of the store's default: for the whole call,
        /// or, where a call waits or streams, for each request it makes.
        #[must_use]
        pub fn with_timeout(mut self, timeout: Duration) -> Self {
            self.timeout = Some(timeout);
            self
        }
    };
}
pub(crate) use timeout_setter;
