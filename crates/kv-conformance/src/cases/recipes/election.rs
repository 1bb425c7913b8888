//! Elections: terms, vacancies, proclamations, and work that ends with its term.

use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use kv_core::{ErrorKind, LockLoss, PutOptions, Store, StoreExt};
use kv_recipes::{Election, Leader, Leaders, Term, TermEnd};
use tokio::sync::mpsc;

use crate::case::needs::{FENCED_WRITES, LOCK_VIEW};
use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::steps::{at_once, ensure_eq, key, refused, settle, soon};

pub(super) const CASES: &[Case] = &[
    case!(
        terms_rise_and_vacancies_are_seen,
        "Terms rise, and observers see each lasting vacancy.",
        LOCK_VIEW
    ),
    case!(
        a_candidate_leads_after_the_leader,
        "A waiting candidate leads when the leader is gone.",
        LOCK_VIEW
    ),
    case!(
        a_proclamation_is_of_its_term,
        "What a leader proclaims is told as its own, and never as a later leader's.",
        LOCK_VIEW
    ),
    case!(a_lost_term_ends_its_work, "Work that is run by a leader ends with its term.", LOCK_VIEW),
    case!(
        an_old_leader_writes_nothing,
        "A write under the fence of an old term is refused.",
        LOCK_VIEW,
        FENCED_WRITES
    ),
];

const OFFICE: &str = "dir/office";

fn candidate(store: &Arc<dyn Store>, identity: &'static str) -> Result<Election> {
    Ok(Election::new(Arc::clone(store), OFFICE)?.with_identity(identity))
}

/// Reads on until the observer is told what is wanted; on the way terms must not fall.
async fn until_told(
    leaders: &mut Leaders,
    last: &mut u64,
    what: &str,
    mut wanted: impl FnMut(Option<&Leader>) -> bool,
) -> Result<()> {
    soon(what, async {
        loop {
            let leader = leaders.next().await.context("the observer ended without an error")??;
            if let Some(leader) = &leader {
                ensure!(leader.term.get() >= *last, "{what}: term {} came after {last}", leader.term);
                *last = leader.term.get();
            }
            if wanted(leader.as_ref()) {
                return Ok(());
            }
        }
    })
    .await?
}

async fn terms_rise_and_vacancies_are_seen(fixture: &Fixture) -> Result<()> {
    let stores = [Arc::clone(&fixture.store), fixture.another().await?];
    let observer = candidate(&fixture.another().await?, "observer")?;
    let mut leaders = observer.observe().await?;
    let mut seen = 0;
    until_told(&mut leaders, &mut seen, "the vacancy before", |leader| leader.is_none()).await?;
    let mut last = 0;
    for round in 0..4 {
        let identity = ["a", "b"][round % 2];
        let leadership =
            soon("an office that is free", candidate(&stores[round % 2], identity)?.campaign()).await??;
        let term = leadership.term();
        ensure!(term.get() > last, "term {term} came after {last}");
        last = term.get();
        until_told(&mut leaders, &mut seen, "the new leader", |leader| {
            leader.is_some_and(|leader| leader.term == term && leader.identity == identity)
        })
        .await?;
        let told = observer.leader().await?.context("nobody is told as the leader")?;
        ensure_eq!((told.term, told.identity), (term, identity.into()), "the leader");
        ensure!(observer.try_campaign().await?.is_none(), "two lead at one time");
        leadership.resign().await?;
        until_told(&mut leaders, &mut seen, "the vacancy", |leader| leader.is_none()).await?;
    }
    Ok(())
}

async fn a_candidate_leads_after_the_leader(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let leadership = candidate(&other, "a")?.campaign().await?;
    let election = candidate(store, "b")?;
    let waiting = at_once(async move { election.campaign().await });
    settle(store).await?;
    ensure!(leadership.is_leader(), "the term ended by itself: {:?}", leadership.term());
    other.close().await?;
    let next = soon("the next leader", waiting).await??;
    ensure!(next.term() > leadership.term(), "term {} came after {}", next.term(), leadership.term());
    ensure!(!leadership.is_leader(), "two lead at one time");
    soon("the word that the term is lost", leadership.lost()).await?;
    Ok(next.resign().await?)
}

async fn a_proclamation_is_of_its_term(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let (first, second) = (candidate(store, "a")?, candidate(&other, "b")?);
    let mut leaders = candidate(&fixture.another().await?, "observer")?.observe().await?;
    let mut seen = 0;
    let leadership = first.campaign().await?;
    for value in ["up", "busy\n7", ""] {
        leadership.proclaim(value).await?;
        until_told(&mut leaders, &mut seen, "what is proclaimed", |leader| {
            leader.is_some_and(|leader| leader.proclaimed.as_deref() == Some(value.as_bytes()))
        })
        .await?;
    }
    leadership.resign().await?;
    let leadership = soon("the free office", second.campaign()).await??;
    let mut told = None;
    until_told(&mut leaders, &mut seen, "the next leader", |leader| {
        told = leader.filter(|leader| leader.term == leadership.term()).cloned();
        told.is_some()
    })
    .await?;
    let told = told.context("the next leader is not told")?;
    ensure_eq!(told.proclaimed, None, "what the next leader has proclaimed");
    leadership.proclaim("new").await?;
    until_told(&mut leaders, &mut seen, "what the next leader proclaims", |leader| {
        leader.is_some_and(|leader| leader.proclaimed.as_deref() == Some(b"new"))
    })
    .await?;
    Ok(leadership.resign().await?)
}

async fn a_lost_term_ends_its_work(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let election = candidate(store, "a")?;
    let (terms, mut told) = mpsc::unbounded_channel();
    let _running = at_once(async move {
        let work = |term: Term| {
            let terms = terms.clone();
            async move {
                // Nobody listens any more when the case is over.
                drop(terms.send(term));
                std::future::pending::<ControlFlow<()>>().await
            }
        };
        election.run(std::future::pending(), work).await
    });
    let mut last = 0;
    for _ in 0..2 {
        let term = soon("a term", told.recv()).await?.context("the run ended")?;
        ensure!(term.token().get() > last, "term {} came after {last}", term.token());
        last = term.token().get();
        ensure!(other.break_lock(OFFICE, term.token()).await?, "the term is not held");
        let end = soon("the end of the term", term.over()).await?;
        ensure_eq!(end, TermEnd::Lost(LockLoss::Removed), "why the term ended");
        ensure!(!term.is_current(), "a term that is over is current");
    }
    soon("the term after", told.recv()).await?.context("the run ended")?;
    Ok(())
}

async fn an_old_leader_writes_nothing(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let data = key("data")?;
    let old = candidate(store, "a")?.campaign().await?;
    let fenced = |fence| PutOptions::default().with_fence(fence);
    store.put_with(&data, "old", fenced(old.fence())).await?;
    ensure!(other.break_lock(OFFICE, old.term()).await?, "the term is not held");
    let new = soon("the free office", candidate(&other, "b")?.campaign()).await??;
    other.put_with(&data, "new", fenced(new.fence())).await?;
    refused!(
        store.put_with(&data, "late", fenced(old.fence())).await,
        ErrorKind::NotHeld { .. },
        "a write of an old term"
    );
    refused!(old.proclaim("late").await, ErrorKind::NotHeld { .. }, "a proclamation of an old term");
    ensure_eq!(other.get(&data).await?.context("the data is gone")?.value, "new", "the data");
    Ok(new.resign().await?)
}
