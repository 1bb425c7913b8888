//! The stand-in, asked directly and through `tools/protoc.sh`, makes what prost-build needs.
#![allow(clippy::expect_used)] // A test stops at the first thing that is not as it must be.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use protox::prost_reflect::DescriptorPool;

const SHIM: &str = env!("CARGO_BIN_EXE_protoc-shim");

/// A new folder holding `root.proto`, which imports `part.proto` and a file every protoc brings.
fn protos(test: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("create the test's folder");
    let part = "syntax = \"proto3\"; package t; message Part { string name = 1; }";
    let root = "syntax = \"proto3\"; package t; import \"part.proto\"; \
                import \"google/protobuf/struct.proto\"; \
                message Root { optional Part part = 1; google.protobuf.Struct any = 2; }";
    fs::write(dir.join("part.proto"), part).expect("write part.proto");
    fs::write(dir.join("root.proto"), root).expect("write root.proto");
    dir
}

/// What prost-build passes.
fn ask(protoc: &mut Command, dir: &Path) -> Output {
    protoc
        .args(["--include_imports", "--include_source_info", "-o"])
        .arg(dir.join("set.bin"))
        .arg("-I")
        .arg(dir)
        .args(["--experimental_allow_proto3_optional", "root.proto"])
        .output()
        .expect("run protoc")
}

fn assert_made(output: &Output, dir: &Path) {
    assert!(output.status.success(), "{output:?}");
    let set = fs::read(dir.join("set.bin")).expect("read the descriptor set");
    let pool = DescriptorPool::decode(set.as_slice()).expect("decode the descriptor set");
    let root = pool.get_message_by_name("t.Root").expect("find t.Root");
    assert_eq!(root.fields().len(), 2);
    for import in ["part.proto", "google/protobuf/struct.proto"] {
        assert!(pool.get_file_by_name(import).is_some(), "{import}");
    }
}

#[test]
fn makes_a_descriptor_set_with_its_imports() {
    let dir = protos("direct");
    let output = ask(&mut Command::new(SHIM), &dir);
    assert_made(&output, &dir);
}

#[test]
fn names_the_place_of_a_mistake() {
    let dir = protos("mistake");
    fs::write(dir.join("part.proto"), "syntax = \"proto3\";\nmessage Part { nonsense }").expect("write");
    let output = ask(&mut Command::new(SHIM), &dir);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(stderr.contains("part.proto:2:"), "{stderr}");
    assert!(!dir.join("set.bin").exists());
}

#[test]
fn refuses_an_option_it_does_not_know() {
    let dir = protos("unknown");
    let output = ask(Command::new(SHIM).arg("--cpp_out=."), &dir);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(stderr.contains("--cpp_out") && stderr.contains("PROTOC"), "{stderr}");
    assert!(!dir.join("set.bin").exists());
}

/// A developer's machine often has protoc, so only a `PATH` made for it shows that none is needed.
/// Twice at once, because two build scripts may ask at the same time.
#[cfg(unix)]
#[test]
fn the_script_builds_the_stand_in_where_protoc_is_missing() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../protoc.sh");
    let path = &path_without_protoc(&protos("script-path"));
    std::thread::scope(|scope| {
        for test in ["script-1", "script-2"] {
            scope.spawn(move || {
                let dir = protos(test);
                let output = ask(Command::new(script).env("PATH", path), &dir);
                assert_made(&output, &dir);
            });
        }
    });
}

/// One folder with a link to every program on `PATH` except protoc.
#[cfg(unix)]
fn path_without_protoc(dir: &Path) -> PathBuf {
    let path = std::env::var_os("PATH").expect("PATH is set");
    for bin in std::env::split_paths(&path) {
        let Ok(programs) = fs::read_dir(&bin) else {
            continue; // PATH may name folders that do not exist.
        };
        for program in programs {
            let program = program.expect("list a folder of PATH");
            let link = dir.join(program.file_name());
            // The first program of a name wins, as it does on PATH.
            if program.file_name() != "protoc" && fs::symlink_metadata(&link).is_err() {
                std::os::unix::fs::symlink(program.path(), link).expect("link a program");
            }
        }
    }
    dir.to_owned()
}
