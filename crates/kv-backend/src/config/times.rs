//! Timeouts and other times of a configuration.

use std::time::Duration;

use kv_core::Result;
use kv_core::implement::Params;
use kv_core::text::duration;

use super::refused;

/// Beyond it, sums of times overflow in the crates below.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Takes the times a URL names, and leaves those alone that it does not.
///
/// # Errors
///
/// `InvalidConfig` for what is no time above zero.
pub fn take_times<'t>(
    params: &mut Params,
    times: impl IntoIterator<Item = (&'static str, &'t mut Duration)>,
) -> Result<()> {
    for (name, time) in times {
        if let Some(given) = params.duration(name)? {
            *time = given;
        }
    }
    Ok(())
}

/// Refuses times that are zero or longer than 365 days.
///
/// # Errors
///
/// `InvalidConfig`, naming the setting.
pub fn check_times(times: impl IntoIterator<Item = (&'static str, Duration)>) -> Result<()> {
    for (name, time) in times {
        if time.is_zero() || time > LONGEST {
            let longest = duration(LONGEST);
            return Err(refused(format!("{name} must be more than zero and at most {longest}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kv_core::StoreUrl;

    use super::*;

    #[test]
    fn times_are_taken_and_bounded() {
        let (mut timeout, mut other) = (Duration::ZERO, Duration::from_secs(7));
        let mut params = StoreUrl::parse("etcd://h?timeout=2s").unwrap().params();
        take_times(&mut params, [("timeout", &mut timeout), ("other", &mut other)]).unwrap();
        params.finish().unwrap();
        assert_eq!((timeout, other), (Duration::from_secs(2), Duration::from_secs(7)));
        check_times([("timeout", timeout)]).unwrap();
        for wrong in [Duration::ZERO, Duration::MAX] {
            let text = check_times([("timeout", wrong)]).unwrap_err().to_string();
            assert!(text.contains("timeout must be more than zero and at most 365 days"), "{text}");
        }
    }
}
