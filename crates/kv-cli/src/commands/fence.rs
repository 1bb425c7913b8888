//! The fence of the lock that a command runs under: its writes are applied only during that hold.

use kv_core::{Fence, FencingToken, Key};

use crate::exit::Failure;

/// The variables by which `kv lock` tells its command which lock it holds.
const KEY: &str = "KV_LOCK_KEY";
const TOKEN: &str = "KV_LOCK_TOKEN";
/// What the server knows the hold by. Whoever has it can write as the holder.
const RECORD: &str = "KV_LOCK_RECORD";

/// What the environment of a command says of the lock it runs under.
#[cfg(unix)]
pub(super) fn environment(fence: &Fence) -> [(&'static str, String); 3] {
    [
        (KEY, fence.key().as_str().to_owned()),
        (TOKEN, fence.token().to_string()),
        (RECORD, fence.record().to_owned()),
    ]
}

/// The fence of the `kv lock` that this command runs under.
pub(super) fn of_this_lock() -> Result<Fence, Failure> {
    let variable = |name| std::env::var(name).ok();
    read(variable).ok_or_else(|| {
        Failure::Usage(format!(
            "--fence is for a command that runs under kv lock, which sets {KEY}, {TOKEN} and {RECORD}: one of them \
             is missing here or makes no sense"
        ))
    })
}

fn read(variable: impl Fn(&'static str) -> Option<String>) -> Option<Fence> {
    let key = Key::new(&variable(KEY)?).ok()?;
    let token = FencingToken::new(variable(TOKEN)?.parse().ok()?);
    Some(Fence::new(key, token, variable(RECORD)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_fence_is_none() {
        let all = [(KEY, "jobs/a"), (TOKEN, "7"), (RECORD, "r")];
        let of = |variables: &[(&str, &str)]| {
            read(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let expected = Fence::new(Key::new("jobs/a").unwrap(), FencingToken::new(7), "r");
        assert_eq!(of(&all), Some(expected));
        for missing in 0..3 {
            let rest: Vec<_> =
                all.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, known)| *known).collect();
            assert_eq!(of(&rest), None);
        }
        assert_eq!(of(&[(KEY, "jobs/a"), (TOKEN, "x"), (RECORD, "r")]), None);
        assert_eq!(of(&[(KEY, ".."), (TOKEN, "7"), (RECORD, "r")]), None);
    }
}
