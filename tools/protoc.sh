#!/bin/sh
# What PROTOC names in .cargo/config.toml: the system's protoc or, where there is none, a stand-in
# built from this workspace. etcd-client's build script runs it, so a fresh checkout builds without
# installing anything. Windows cannot run this file: set PROTOC to a protoc.exe there.
set -eu

if protoc=$(command -v protoc); then
    exec "$protoc" "$@"
fi

root=$(cd "$(dirname "$0")/.." && pwd)
host=${HOST:-$("${RUSTC:-rustc}" -vV | sed -n 's/^host: //p')}
target_dir=$root/target/protoc-shim

# A build script calls us, so a cargo is already at work: a target folder of its own keeps this
# build from waiting for that cargo's lock, and what the outer build asked for (clippy, coverage,
# cross compilation, extra flags) must neither fail nor rebuild the stand-in.
(
    cd "$root"
    RUSTC_WRAPPER='' RUSTC_WORKSPACE_WRAPPER='' CARGO_ENCODED_RUSTFLAGS='' \
        "${CARGO:-cargo}" build --quiet --locked --package protoc-shim \
        --target "$host" --target-dir "$target_dir" >&2
)

exec "$target_dir/$host/debug/protoc-shim" "$@"
