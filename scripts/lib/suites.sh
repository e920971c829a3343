# The suites of scripts/test, whose variables they use: logs, target, top, triple, kvm, kami, home, home_disk.
# Sourced by bash.
# shellcheck shell=bash disable=SC2154

# suite NAME COMMAND [ARG]…: runs a suite that writes a closing line, shows it, and adds it up.
suite() {
    local name=$1 started=$SECONDS end=ended
    shift
    say "suite $name"
    "$@" 2>&1 | tee "$logs/$name" || end=failed
    say "suite $name $end after $((SECONDS - started)) s"
    suite_sum "$name" "$end"
}

# side_by_side 'NAME COMMAND [ARG]…'…: suites that run at once, for an emulated host keeps one processor busy; each is split into words.
side_by_side() {
    local item words processes=() end started=$SECONDS
    say "suites" "${@%% *}"
    for item; do
        read -ra words <<<"$item"
        "${words[@]:1}" >"$logs/${words[0]}" 2>&1 &
        processes+=($!)
    done
    for item; do
        end=ended
        wait "${processes[0]}" || end=failed
        processes=("${processes[@]:1}")
        say "suite ${item%% *} $end after $((SECONDS - started)) s"
        cat "$logs/${item%% *}"
        suite_sum "${item%% *}" "$end"
    done
}

# suite_sum NAME END: adds up its log; an end that no test accounts for is a failure too.
suite_sum() {
    local before=$failed
    tally_more "$1" "$logs/$1"
    if [ "$2" = failed ] && [ "$failed" = "$before" ]; then
        failed=$((failed + 1))
        echo "$1: FAILED: it ended with an error"
    fi
}

native_tests() {
    local failed=0
    (cd "$top" && cargo test --workspace --locked --no-fail-fast) || failed=1
    # The test that is ignored as `run apart`. Where it cannot run that is said and fails nothing: no other test asks for root.
    if [ "$(id -u)" = 0 ] && losetup --find >/dev/null; then
        (cd "$top" && cargo test --locked -p kami-vmm --test disk_faults -- --exact --ignored failed_sync_of_the_host_is_remembered_until_the_next_start) || failed=1
    else
        say "a failed sync of the host is remembered: ignored here, for it needs root and a loop device"
    fi
    return $failed
}

# The same test programs, linked statically, in the emulated host, whose tmpfs has no direct I/O.
rig_suite() {
    # shellcheck disable=SC2034 # rig_tests reads it
    local programs
    CARGO_BUILD_TARGET=$triple RUSTFLAGS='-C target-feature=+crt-static' rig_build_tests "$logs/rig-build" --workspace --locked &&
        rig_tests x86_64 -- --skip block::tests::direct::
}

# rig_debian IMAGE: the launches of tests/rig/debian.sh, natively where the KVM is hardware.
# QEMU's emulated processors have shut down on their own: twice in some thirty runs with two of them on a busy machine, once
# the host's and once the guest's, early in a boot. So the emulated host has one, and that end is tried once more, and said.
rig_debian() {
    debian_launches "$1" | tee "$logs/$1.checks"
    if grep -q '^the command ended with status 101 ' "$logs/$1.checks"; then
        say "$1: a guest's processor shut down under emulation; trying once more"
        debian_launches "$1" | tee "$logs/$1.checks"
    fi
    # A second try of the emulated host repeats lines.
    awk '/^ok: / && !seen[$0]++ { ok++ } /^FAILED: / { failed++ }
        END { printf "debian: %d passed, %d failed\n", ok, failed; exit failed > 0 }' "$logs/$1.checks"
}

debian_launches() {
    local command=("$top/tests/rig/debian.sh" "$top/scripts/lib/console.sh" "$1") program=$kami disk=$home_disk options=()
    case $1 in
        *-arm64*) program=$aarch64_kami disk=$aarch64_home_disk options=(--arch aarch64) ;;
    esac
    if [ "$kvm" = hardware ] && [ ${#options[@]} = 0 ]; then
        KAMI_HOME=$home PATH=${kami%/*}:$PATH timeout 1500 sh "${command[@]}" 2>&1
    else
        "$top/scripts/rig" "${options[@]}" --cpus 1 --timeout 1500 --memory 5G --disk "$disk:/home" --env KAMI_HOME=/home \
            --file "$program:/bin/kami" --file "${command[0]}" --file "${command[1]}" sh "${command[@]}" 2>&1
    fi || echo "FAILED: $1: ended with status $?"
}

# rig_life: the transcript of tests/rig/life.sh, natively where the KVM is hardware.
rig_life() {
    local command=("$top/tests/rig/life.sh" "$top/scripts/lib/console.sh") disk=$target/images/debian-12/disk.qcow2
    {
        if [ "$kvm" = hardware ]; then
            KAMI_HOME=$home PATH=${kami%/*}:$PATH timeout 1500 sh "${command[@]}" "$disk" 2>&1
        else
            "$top/scripts/rig" --cpus 1 --timeout 1500 --memory 5G --disk "$home_disk:/home" --disk "$disk" --env KAMI_HOME=/home \
                --file "$kami:/bin/kami" --file "${command[0]}" --file "${command[1]}" sh "${command[@]}" /dev/vdc 2>&1
        fi || echo "FAILED: life: ended with status $?"
    } | tee "$logs/life.checks"
    # A second try of the emulated host repeats lines.
    awk '/^ok: / && !seen[$0]++ { ok++ } /^FAILED: / { failed++ }
        END { printf "life: %d passed, %d failed\n", ok, failed; exit failed > 0 }' "$logs/life.checks"
}
