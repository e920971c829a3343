# The toolchain that compiles for another architecture than this machine's. Sourced by bash after common.sh and debian.sh.
# shellcheck shell=bash disable=SC2034,SC2154

# What Debian's compiler loads, which not every machine has.
cross_libraries=(libllvm22 libz3-4 libxml2 libicu72 libedit2 libbsd0 libmd0 libtinfo6 libffi8 libzstd1)

# cross_toolchain ARCHITECTURE: sets cross_triple, and PATH and cargo's variables so that cargo compiles for it, linked statically.
# The compiler is the one that cargo uses anyway, where rustup has or can add the target's standard library; else Debian's.
# KAMI_CROSS=debian takes Debian's in any case.
cross_toolchain() {
    local prefix
    [ "$1" = aarch64 ] || die "no toolchain for $1 is known" "scripts/cross aarch64"
    cross_triple=$1-unknown-linux-gnu
    need_rust
    if [ "$(uname -m)" != "$1" ]; then
        need "$1-linux-gnu-gcc=gcc-$1-linux-gnu"
        [ -e "/usr/$1-linux-gnu/lib/libc.a" ] || need "libc.a=libc6-dev-arm64-cross"
        if [ "${KAMI_CROSS-}" = debian ] || ! cross_rustup; then cross_debian arm64; fi
    fi
    prefix=${cross_triple^^}
    export CARGO_BUILD_TARGET=$cross_triple "CARGO_TARGET_${prefix//-/_}_RUSTFLAGS=-C target-feature=+crt-static"
}

# cross_rustup: whether cargo's own compiler has the target's standard library, which rustup adds where there is a network.
cross_rustup() {
    cross_has_library && return
    command -v rustup >/dev/null || return
    say "adding rustup's standard library for $cross_triple"
    rustup -q target add "$cross_triple" >&2 && cross_has_library
}

cross_has_library() { compgen -G "$(rustc --print sysroot)/lib/rustlib/$cross_triple/lib/libstd-*.rlib" >/dev/null; }

# cross_debian ARCHITECTURE: Debian's newest Rust (`web`: kept up for browsers), unpacked under target/cross, which comes into
# PATH; target/cross/config.toml names it to a plain `cargo --config`.
cross_debian() {
    local folder=$target/cross lib=$top/scripts/lib bin=$target/cross/usr/bin stamp package version
    stamp=$(digest_of "$lib/cross.sh" "$lib/debian.sh")
    only_one cross
    if ! is_fresh "$folder/config.toml" "$stamp"; then
        need patchelf
        debian_view
        version=$(cross_version "$1")
        say "unpacking Debian's Rust $version under $folder (once)"
        rm -rf "$folder" "$folder.new"
        # The standard library is there twice: for proc macros and build scripts, and for the target.
        for package in rustc-web "libstd-rust-web-${version%.*}" libstd-rust-web-dev rust-web-clippy; do
            debian_unpack "$package=$version" "$folder.new"
        done
        debian_unpack "libstd-rust-web-dev:$1=$version" "$folder.new"
        for package in "${cross_libraries[@]}"; do debian_unpack "$package" "$folder.new"; done
        # Its programs find their libraries, and by those the sysroot, wherever the folder lies; children inherit nothing of it.
        # shellcheck disable=SC2016 # the loader expands it
        patchelf --force-rpath --set-rpath '$ORIGIN/../lib/x86_64-linux-gnu:$ORIGIN/../../lib/x86_64-linux-gnu' \
            "$folder.new"/usr/bin/*
        patchelf --remove-rpath "$folder.new"/usr/lib/x86_64-linux-gnu/libLLVM.so.*
        printf '[build]\nrustc = "%s"\nrustdoc = "%s"\n' "$bin/rustc" "$bin/rustdoc" >"$folder.new/config.toml"
        mv "$folder.new" "$folder"
        mark_fresh "$folder/config.toml" "$stamp"
    fi
    exec {lock_fd}>&-
    export RUSTC=$bin/rustc RUSTDOC=$bin/rustdoc
    PATH=$bin:$PATH
}

# cross_version ARCHITECTURE: the newest version that all packages have on both architectures; a compiler takes no other
# version's libraries, and an architecture may lag behind for some hours.
cross_version() {
    local package packages=(rustc-web:amd64 rust-web-clippy:amd64 libstd-rust-web-dev:amd64 "libstd-rust-web-dev:$1")
    for package in "${packages[@]}"; do
        debian_apt cache madison "$package" | awk '{ print $3 }' | sort -u
    done | sort -V | uniq -c | awk -v all=${#packages[@]} '$1 == all { print $2 }' | tail -n1 | grep . ||
        die "Debian has no one version of Rust for amd64 and $1"
}
