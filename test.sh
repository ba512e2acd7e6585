#!/bin/sh
# All tests: what CI runs. On Debian, as root, it installs what is missing; elsewhere have a C compiler,
# rustup's rustfmt and clippy, and what `lab` asks for.
set -eu
cd "$(dirname "$0")"

need() {
    for program in "$@"; do
        command -v "$program" >/dev/null 2>&1 || return 0
    done
    return 1
}
if need cc debootstrap && command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev debootstrap >/dev/null
fi

export RUSTFLAGS="${RUSTFLAGS:--D warnings}"
echo "== format"
cargo fmt --all --check
echo "== lints"
cargo clippy --workspace --all-targets --locked --quiet
echo "== documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
echo "== tests"
cargo test --workspace --locked --quiet
echo "== the shipped binary"
cargo build --release --locked --quiet --bin vfioadm
echo "== lab"
cargo run --release --locked --quiet -p vfioadm-lab -- test
