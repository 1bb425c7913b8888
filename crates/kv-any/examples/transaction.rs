//! A transaction: money moves from one account to another, or nothing happens.
//!
//! `cargo run -p kv-any --example transaction [URL]`
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::error::Error;

use kv_any::kv_core::{Compare, Condition, Entry, Key, Store, StoreExt, Txn, TxnOp};

fn balance(entry: &Entry) -> Result<u64, Box<dyn Error>> {
    Ok(entry.text()?.parse()?)
}

/// Moves an amount; `false` if there is not enough. Begins anew when somebody else was faster.
pub(crate) async fn transfer(
    store: &dyn Store,
    from: &Key,
    to: &Key,
    amount: u64,
) -> Result<bool, Box<dyn Error>> {
    loop {
        let (Some(source), Some(target)) = (store.get(from).await?, store.get(to).await?) else {
            return Err("there is no such account".into());
        };
        let Some(rest) = balance(&source)?.checked_sub(amount) else { return Ok(false) };
        let moved = Txn::when([
            Condition::version(from, Compare::Equal, source.version),
            Condition::version(to, Compare::Equal, target.version),
        ])
        .then([TxnOp::put(from, rest.to_string()), TxnOp::put(to, (balance(&target)? + amount).to_string())]);
        if store.transact(moved).await?.succeeded {
            return Ok(true);
        }
    }
}

/// Moves 30 of 40 twice, and returns both balances.
pub(crate) async fn run(url: &str) -> Result<(u64, u64), Box<dyn Error>> {
    let store = kv_any::open(url).await?;
    let (from, to): (Key, Key) = ("transaction/a".parse()?, "transaction/b".parse()?);
    store.put(&from, "40").await?;
    store.put(&to, "2").await?;
    for _ in 0..2 {
        let moved = transfer(&*store, &from, &to, 30).await?;
        println!("moved: {moved}");
    }
    let mut balances = Vec::new();
    for key in [&from, &to] {
        balances.push(balance(&store.get(key).await?.ok_or("an account is gone")?)?);
    }
    store.delete_tree("transaction").await?;
    store.close().await?;
    Ok((balances[0], balances[1]))
}

#[allow(dead_code, reason = "the test of the examples calls run()")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "mem:".to_owned());
    println!("{:?}", run(&url).await?);
    Ok(())
}
