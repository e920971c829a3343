# What every script here shares: messages, the packages it needs, and stamps for what it caches.
# Sourced by bash; sets `top` (the source tree) and `target` (where everything is built and cached).
# shellcheck shell=bash disable=SC2034

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$top/target}
triple=$(uname -m)-unknown-linux-gnu
# How a static binary that others get is compiled: no path of this machine comes into it.
static_flags="-C target-feature=+crt-static --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "error: $1"
    [ $# -lt 2 ] || say "help: $2"
    exit 1
}

# need COMMAND[=PACKAGE]…: as root installs the packages of the missing commands, else names them in one line. Looks again afterwards: what
# is installed may have taken another's place (Debian's qemu-system-x86 removes a newer qemu-utils).
need() {
    local item missing round
    for round in first second; do
        missing=()
        for item; do
            command -v "${item%%=*}" >/dev/null || missing+=("${item#*=}")
        done
        [ ${#missing[@]} -gt 0 ] || return 0
        command -v apt-get >/dev/null || die "missing programs: ${missing[*]}" "install them; only Debian's and Ubuntu's packages are known here"
        [ "$(id -u)" = 0 ] || die "missing packages: ${missing[*]}" "sudo apt-get install ${missing[*]}"
        [ $round = second ] || say "installing ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        { apt-get -q update && apt-get -qy install --no-install-recommends "${missing[@]}"; } </dev/null >&2 ||
            die "cannot install: ${missing[*]}"
    done
}

# need_rust: a C linker and a Rust toolchain; a toolchain is never installed behind the user's back by other means than apt.
need_rust() {
    need cc=gcc
    [ -x "$HOME/.cargo/bin/cargo" ] && PATH=$HOME/.cargo/bin:$PATH
    need cargo=cargo
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$top/Cargo.toml")
    have=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n1)" = "$wanted" ] ||
        die "Rust $have is too old: kami needs $wanted" "install it with rustup"
}

# need_tool COMMAND CRATE@VERSION [OPTION]…: a program from the Rust registry, kept under target/tools, which comes into PATH.
need_tool() {
    local command=$1 crate=$2
    shift 2
    PATH=$PATH:$target/tools/bin
    command -v "$command" >/dev/null || {
        say "building $crate (once)"
        cargo install -q --locked "$crate" --root "$target/tools" --target-dir "$target/tools/build" "$@" >&2 &&
            rm -rf "$target/tools/build"
    }
}

# digest_of FILE… [-- WORD…]: one digest of the files' contents and the words: the stamp of what is made from them.
digest_of() {
    local files=()
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        files+=("$1")
        shift
    done
    { cat "${files[@]}" && printf '%s\n' "$@"; } | sha256sum | cut -c1-16
}

# is_fresh FILE DIGEST: FILE was made from inputs of this digest. mark_fresh says so.
is_fresh() { [ -e "$1" ] && [ "$(cat "$1.stamp" 2>/dev/null)" = "$2" ]; }
mark_fresh() { echo "$2" >"$1.stamp"; }

# only_one NAME: waits until no other of these scripts works on NAME, then holds it until this process ends.
only_one() {
    mkdir -p "$target/locks"
    exec {lock_fd}>"$target/locks/$1"
    flock -n "$lock_fd" || { say "waiting for another run that holds $target/locks/$1" && flock "$lock_fd"; }
}

# build_kami: the static release binary, as $kami.
build_kami() {
    need_rust
    (cd "$top" && RUSTFLAGS=$static_flags cargo build --release --locked -p kami-vmm --bin kami --target "$triple") >&2
    kami=$target/$triple/release/kami
}
