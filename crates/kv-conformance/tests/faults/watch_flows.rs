//! Watches that stand in each other's way, or in a writer's.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt, stream};
use kv_core::{ErrorKind, Result, StoreExt, Version, Watch, WatchEvent};
use tokio::sync::Semaphore;

use super::Fault;
use super::tools::{BTreeMap, Shared, id, pause, rewatch, shared, silence, with};

/// Counts while it lives.
struct Living(Shared<usize>);

impl Living {
    fn new(count: &Shared<usize>) -> Self {
        with(count, |count| *count += 1);
        Self(Arc::clone(count))
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        with(&self.0, |count| *count -= 1);
    }
}

/// Counts how often it is dropped.
struct Counts(Shared<usize>);

impl Drop for Counts {
    fn drop(&mut self) {
        with(&self.0, |drops| *drops += 1);
    }
}

/// A watch that takes something with it when it is dropped, and falls silent when `ends` says so.
fn until(
    watch: Watch,
    companion: impl Send + Sync + 'static,
    ends: impl Fn() -> bool + Send + Sync + 'static,
) -> Watch {
    let events = watch.take_while(move |_| {
        let (_companion, more) = (&companion, !ends());
        std::future::ready(more)
    });
    Watch::new(events.chain(silence()))
}

/// An event that comes while nobody waits is lost.
struct CancelUnsafe {
    watch: Watch,
    asked: Option<Instant>,
}

impl Stream for CancelUnsafe {
    type Item = Result<WatchEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let abandoned = self.asked.is_some_and(|asked| asked.elapsed() > Duration::from_micros(100));
        let polled = Pin::new(&mut self.watch).poll_next(cx);
        self.asked = polled.is_pending().then(Instant::now);
        match polled {
            Poll::Ready(Some(Ok(WatchEvent::Put(_)))) if abandoned => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            other => other,
        }
    }
}

pub(super) fn faults() -> Vec<Fault> {
    let mut faults = vec![
        Fault::new("watch_drops_the_wait_and_the_event", &["next_is_cancel_safe"]).watch(
            |store, target, options| async move {
                let watch = store.watch_with(target, options).await?;
                Ok(Watch::new(CancelUnsafe { watch, asked: None }))
            },
        ),
        Fault::new("watch_ends_with_a_request_s_deadline", &["idle_watch_lives_on"]).watch(
            |store, target, options| async move {
                let limit = options.timeout.unwrap_or(Duration::from_secs(30));
                let watch = store.watch_with(target, options).await?;
                Ok(Watch::new(stream::unfold(Some(watch), move |watch| async move {
                    let mut watch = watch?;
                    match tokio::time::timeout(limit, watch.next()).await {
                        Ok(event) => event.map(|event| (event, Some(watch))),
                        Err(_) => Some((Err(ErrorKind::Timeout.into()), None)),
                    }
                })))
            },
        ),
        own_writes_only(),
    ];
    faults.extend(crowds());
    faults.extend(slow_readers());
    faults
}

fn own_writes_only() -> Fault {
    let writers: Shared<BTreeMap<Version, usize>> = shared();
    let written = Arc::clone(&writers);
    Fault::new(
        "watch_tells_only_its_own_handle_s_writes",
        &["watches_of_two_handles_tell", "watch_sees_what_follows_it", "odd_keys_work_in_watches"],
    )
    .put(move |store, key, value, options| {
        let writers = Arc::clone(&writers);
        async move {
            let put = store.put_with(&key, value, options).await?;
            with(&writers, |writers| writers.insert(put.version, id(&store)));
            Ok(put)
        }
    })
    .watch(move |store, target, options| {
        let (written, own) = (Arc::clone(&written), id(&store));
        async move {
            let watch = store.watch_with(target, options).await?;
            let events = watch.filter_map(move |event| {
                let written = Arc::clone(&written);
                async move {
                    let Ok(WatchEvent::Put(entry)) = &event else { return Some(event) };
                    // The writer's note may come a moment later than the event.
                    pause(2).await;
                    let writer = with(&written, |written| written.get(&entry.version).copied());
                    writer.is_none_or(|writer| writer == own).then_some(event)
                }
            });
            Ok(Watch::new(events.boxed()))
        }
    })
}

fn crowds() -> Vec<Fault> {
    let (newest, drops, living, begun) =
        (shared::<BTreeMap<usize, usize>>(), shared(), shared(), shared::<usize>());
    vec![
        Fault::new(
            "a_new_watch_silences_the_last",
            &["two_watches_both_tell", "overlapping_watches_all_tell"],
        )
        .watch(move |store, target, options| {
            let newest = Arc::clone(&newest);
            async move {
                let own = id(&store);
                let turn = with(&newest, |newest| {
                    let turn = newest.entry(own).or_default();
                    *turn += 1;
                    *turn
                });
                let watch = store.watch_with(target, options).await?;
                Ok(until(watch, (), move || with(&newest, |newest| newest.get(&own) != Some(&turn))))
            }
        }),
        Fault::new("a_dropped_watch_silences_all", &["dropping_a_watch_leaves_others"]).watch(
            move |store, target, options| {
                let drops: Shared<usize> = Arc::clone(&drops);
                async move {
                    let watch = store.watch_with(target, options).await?;
                    let before = with(&drops, |drops| *drops);
                    let counts = Counts(Arc::clone(&drops));
                    Ok(until(watch, counts, move || with(&drops, |drops| *drops != before)))
                }
            },
        ),
        Fault::new(
            "watches_are_never_released",
            &["dropped_watches_release_everything", "many_watches_live_together"],
        )
        .watch(move |store, target, options| {
            let begun = Arc::clone(&begun);
            async move {
                if with(&begun, |begun| std::mem::replace(begun, *begun + 1)) >= 200 {
                    return Err(ErrorKind::Overloaded.into());
                }
                store.watch_with(target, options).await
            }
        }),
        Fault::new("a_handle_has_a_hundred_watches", &["many_watches_live_together"]).watch(
            move |store, target, options| {
                let living: Shared<usize> = Arc::clone(&living);
                async move {
                    let own = Living::new(&living);
                    if with(&living, |living| *living) > 100 {
                        return Err(ErrorKind::Overloaded.into());
                    }
                    Ok(until(store.watch_with(target, options).await?, own, || false))
                }
            },
        ),
    ]
}

/// A watch without some of its events, by their number.
fn after(name: &'static str, caught_by: &'static [&'static str], lost: fn(usize) -> bool) -> Fault {
    Fault::new(name, caught_by).watch(move |store, target, options| async move {
        let mut at = 0;
        rewatch(&store, target, options, move |event| {
            at += 1;
            (!lost(at)).then_some(event)
        })
        .await
    })
}

fn slow_readers() -> Vec<Fault> {
    let rooms: Shared<Vec<Arc<Semaphore>>> = shared();
    let taken = Arc::clone(&rooms);
    vec![
        Fault::new("an_unread_watch_stops_writers", &["slow_consumer_blocks_no_writer"])
            .watch(move |store, target, options| {
                let rooms = Arc::clone(&rooms);
                async move {
                    let room = Arc::new(Semaphore::new(1024));
                    with(&rooms, |rooms| rooms.push(Arc::clone(&room)));
                    let watch = store.watch_with(target, options).await?;
                    Ok(Watch::new(watch.inspect(move |_| room.add_permits(1))))
                }
            })
            .put(move |store, key, value, options| {
                let taken = Arc::clone(&taken);
                async move {
                    for room in with(&taken, |rooms| rooms.clone()) {
                        if let Ok(permit) = room.acquire().await {
                            permit.forget();
                        }
                    }
                    store.put_with(&key, value, options).await
                }
            }),
        after("a_long_watch_falls_silent", &["slow_consumer_ends_on_the_state"], |at| at > 1500),
        after(
            "a_long_watch_loses_events",
            &["slow_consumer_ends_on_the_state", "resync_brings_the_whole_state"],
            |at| (3000..=4001).contains(&at),
        ),
        Fault::new("resync_brings_no_state", &["resync_brings_the_whole_state"]).watch(
            |store, target, options| async move {
                let watch = store.watch_with(target, options).await?;
                let mut at = 0;
                let events = watch.flat_map(move |event| {
                    at += 1;
                    let gap = if at == 1000 {
                        vec![Ok(WatchEvent::Resync), Ok(WatchEvent::Synced)]
                    } else {
                        vec![]
                    };
                    stream::iter(gap.into_iter().chain([event]).collect::<Vec<_>>())
                });
                Ok(Watch::new(events))
            },
        ),
    ]
}
