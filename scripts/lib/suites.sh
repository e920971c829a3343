# The suites of scripts/test, whose variables they use: logs, target, top, kvm, kami, home, home_disk.
# Sourced by bash.
# shellcheck shell=bash disable=SC2154

# suite NAME COMMAND [ARG]…: runs a suite that writes a closing line, shows it, and adds it up.
suite() {
    local name=$1 started=$SECONDS end=ended
    shift
    say "suite $name"
    "$@" 2>&1 | tee "$logs/$name" || end=failed
    say "suite $name $end after $((SECONDS - started)) s"
    tally_more "$name" "$logs/$name"
}

native_tests() { (cd "$top" && cargo test --workspace --locked --no-fail-fast); }

# The same test programs, linked statically, in the emulated host.
rig_suite() {
    # shellcheck disable=SC2034 # rig_tests reads it
    local programs
    CARGO_BUILD_TARGET=$triple RUSTFLAGS='-C target-feature=+crt-static' rig_build_tests "$logs/rig-build" --workspace --locked
    rig_tests x86_64 --
}

# debian_suites IMAGE…: the suite of each image, side by side: an emulated host keeps one processor busy.
debian_suites() {
    local image started=$SECONDS
    say "suites $*"
    for image; do
        rig_debian "$image" >"$logs/$image" 2>&1 &
    done
    wait
    for image; do
        cat "$logs/$image"
        tally_more "$image" "$logs/$image"
    done
    say "suites $* ended after $((SECONDS - started)) s"
}

# rig_debian IMAGE: the two launches of tests/rig/debian.sh, natively where the KVM is hardware.
# QEMU's emulated processors have shut down on their own: twice in some thirty runs with two of them on a busy machine, once
# the host's and once the guest's, early in a boot. So the emulated host has one, and that end is tried once more, and said.
rig_debian() {
    debian_launches "$1" | tee "$logs/$1.checks"
    if [ "$kvm" != hardware ] && grep -q '^the command ended with status 101 ' "$logs/$1.checks"; then
        say "$1: a guest's processor shut down under emulation; trying once more"
        debian_launches "$1" | tee "$logs/$1.checks"
    fi
    # A second try of the emulated host repeats lines.
    awk '/^ok: / && !seen[$0]++ { ok++ } /^FAILED: / { failed++ }
        END { printf "debian: %d passed, %d failed\n", ok, failed; exit failed > 0 }' "$logs/$1.checks"
}

debian_launches() {
    local command=("$top/tests/rig/debian.sh" "$top/scripts/lib/console.sh" "$1")
    if [ "$kvm" = hardware ]; then
        KAMI_HOME=$home PATH=${kami%/*}:$PATH timeout 1500 sh "${command[@]}" 2>&1
    else
        "$top/scripts/rig" --cpus 1 --timeout 1500 --memory 5G --disk "$home_disk:/home" --env KAMI_HOME=/home \
            --file "$kami:/bin/kami" --file "${command[0]}" --file "${command[1]}" sh "${command[@]}" 2>&1
    fi || echo "FAILED: $1: ended with status $?"
}
