//! edit: an editor, and a put that overwrites nobody.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::common::{Place, Run, Running};

/// Runs `kv edit` with this shell script as the editor; the file to edit is `$1`.
fn edit(place: &Place, args: &[&str], script: &str) -> Run {
    let mut all = vec!["edit"];
    all.extend(args);
    let editor = place.path("editor");
    std::fs::write(&editor, script).unwrap();
    let drafts = place.path("drafts");
    std::fs::create_dir_all(&drafts).unwrap();
    let mut command = place.command(all);
    command.env_remove("VISUAL").env("EDITOR", format!("sh -e {}", editor.display())).env("TMPDIR", drafts);
    command.env("KV", env!("CARGO_BIN_EXE_kv"));
    command.output().unwrap().into()
}

/// What is left in the folder of the files that are edited.
fn drafts(place: &Place) -> Vec<PathBuf> {
    std::fs::read_dir(place.path("drafts")).unwrap().map(|file| file.unwrap().path()).collect()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_edit_is_stored_and_its_file_is_gone() {
    let place = Place::new();
    place.kv(["put", "app/config.json", "one", "--ttl", "1h"]).ok();
    // As many editors do, this one ends the last line.
    let run =
        edit(&place, &["app/config.json"], "echo \"$1\" > name; echo two > \"$1.new\"; mv \"$1.new\" \"$1\"");
    assert_eq!(run.ok().text(), "version 2\n");
    assert!(text(&place.path("name")).trim().ends_with("-config.json"));
    let entry = place.kv(["get", "app/config.json", "--meta", "-o", "json"]).ok().json();
    assert_eq!((&entry["value"], &entry["expiry"]["ttl_seconds"]), (&json!("two"), &json!(3600.0)));
    assert!(drafts(&place).is_empty());
}

#[test]
fn without_a_change_nothing_is_put() {
    let place = Place::new();
    place.kv(["put", "a", "one"]).ok();
    let run = edit(&place, &["a"], "true");
    assert_eq!((run.code, run.text(), run.err.as_str()), (0, "", "kv: the value was not changed\n"));
    let run = edit(&place, &["a"], "echo two > \"$1\"; exit 3").fails(1, &["failed", "nothing was changed"]);
    // What was typed is not lost.
    let [draft] = drafts(&place).try_into().unwrap();
    assert!(run.err.contains(&format!("your edit is kept in {draft:?}")), "{run:?}");
    assert_eq!(text(&draft), "two\n");
    assert_eq!(place.kv(["get", "a", "--meta", "-o", "json"]).ok().json()["version"], 1);
}

#[test]
fn what_others_put_meanwhile_stays_and_so_does_the_edit() {
    let place = Place::new();
    place.kv(["put", "a", "one"]).ok();
    let run = edit(&place, &["a"], "$KV put a theirs; echo mine > \"$1\"");
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.err.contains("others put version 2 meanwhile"), "{run:?}");
    assert_eq!(place.kv(["get", "a"]).ok().text(), "theirs");
    let [draft] = drafts(&place).try_into().unwrap();
    assert_eq!(text(&draft), "mine\n");

    let run = edit(&place, &["a"], "$KV del a; echo mine > \"$1\"");
    assert!(run.code == 4 && run.err.contains("others deleted it meanwhile"), "{run:?}");
    place.kv(["get", "a"]).fails(3, &[]);
    // The same value at a new version is nobody's change.
    place.kv(["put", "a", "one"]).ok();
    let run = edit(&place, &["a"], "$KV touch a; echo mine > \"$1\"");
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(place.kv(["get", "a"]).ok().text(), "mine");
}

#[test]
fn keys_that_cannot_be_edited() {
    let place = Place::new();
    edit(&place, &[".."], "touch ran").fails(2, &["invalid key"]);
    edit(&place, &["a"], "touch ran").fails(3, &["no such key", "--create"]);
    place.kv(["put", "a", "ff00", "--hex"]).ok();
    edit(&place, &["a"], "touch ran").fails(2, &["not text"]);
    edit(&place, &["a", "--read-only"], "touch ran").fails(2, &["read-only"]);
    assert!(!place.path("ran").exists());

    let run = edit(&place, &["b", "--create"], "echo new > \"$1\"");
    assert_eq!(run.ok().text(), "version 2\n");
    assert_eq!(place.kv(["get", "b"]).ok().text(), "new\n");
    // Somebody else made it meanwhile.
    let run = edit(&place, &["c", "--create"], "$KV put c theirs; echo new > \"$1\"");
    assert!(run.code == 4 && run.err.contains("others put version 3"), "{run:?}");
    assert_eq!(place.kv(["get", "c"]).ok().text(), "theirs");
}

/// On a terminal there is somebody to ask whether the edit goes over what others put.
#[test]
fn a_conflict_is_asked_about_on_a_terminal() {
    for (answer, value) in [("y\n", "mine"), ("n\n", "theirs")] {
        let place = Place::new();
        place.kv(["put", "a", "one"]).ok();
        std::fs::create_dir_all(place.path("drafts")).unwrap();
        // The first time others are faster.
        let script = "test -e came || $KV put a theirs; touch came; echo mine > \"$1\"";
        std::fs::write(place.path("editor"), script).unwrap();
        let kv = env!("CARGO_BIN_EXE_kv");
        let mut terminal = Command::new("script");
        terminal.args(["-qec", &format!("{kv} edit a"), "/dev/null"]).env("KV_STORE", place.url());
        terminal.env("EDITOR", "sh -e ./editor").env_remove("VISUAL").env("KV", kv);
        terminal.env("TMPDIR", place.path("drafts")).current_dir(place.path(""));
        terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = match terminal.spawn() {
            Ok(child) => Running::from(child),
            Err(error) => {
                return kv_testkit::skip(&format!("script, which gives a terminal, is not there: {error}"));
            }
        };
        running.child().stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let run = running.end();
        assert!(run.text().contains("Others put version 2 meanwhile. Edit yours again"), "{run:?}");
        assert!(run.text().contains("their value is in "), "{run:?}");
        assert_eq!(place.kv(["get", "a"]).ok().text(), value, "{run:?}");
        let kept = drafts(&place).len();
        assert_eq!(kept, if answer == "y\n" { 0 } else { 2 }, "{run:?}");
    }
}
