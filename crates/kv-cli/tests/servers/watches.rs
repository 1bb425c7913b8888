//! Watching what others do.

use std::io::{BufRead, BufReader};

use serde_json::Value;

use crate::common::{Place, wait_for};

pub(crate) fn changes_of_other_processes_arrive(place: &Place) {
    let mut watch = place.start(["watch", "app", "--initial"]);
    let mut lines = BufReader::new(watch.child().stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["event"], "synced");
    for number in 0..5 {
        place.kv(["put", "app/a", &number.to_string()]).ok();
        // One at a time, as not every backend delivers each of several.
        let event = next();
        assert_eq!((&event["event"], &event["key"]), (&"put".into(), &"app/a".into()));
        assert_eq!(event["value"], number.to_string());
    }
    place.kv(["put", "other", "not below"]).ok();
    place.kv(["del", "app/a"]).ok();
    let event = next();
    assert_eq!((&event["event"], &event["key"]), (&"delete".into(), &"app/a".into()));
    watch.signal("TERM");
    let run = watch.end();
    assert_eq!((run.code, run.err.as_str()), (143, ""));
    wait_for("nothing to be left", || place.kv(["ls", "app"]).ok().out.is_empty());
}
