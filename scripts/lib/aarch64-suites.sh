# The suites of scripts/test that run in emulated Arm hosts. Sourced by bash after suites.sh.
# shellcheck shell=bash disable=SC2034,SC2154

aarch64_triple=aarch64-unknown-linux-gnu

# aarch64_suites: the workspace's tests on a Neoverse N1 with a GICv3, those that run a KVM also with a GICv2 and on a processor with all
# that qemu knows (SVE, pointer authentication); then stock Debian kernels. Two hosts at a time, each of one emulated processor.
aarch64_suites() {
    local home home_disk aarch64_programs
    suite aarch64-build aarch64_build
    mapfile -t aarch64_programs <"$logs/aarch64-programs"
    side_by_side 'aarch64 aarch64_tests .' 'aarch64-hosts aarch64_hosts'
    "$top/scripts/debian-image" arm64
    debian_home arm64
    debian_home_disk
    aarch64_home_disk=$home_disk aarch64_kami=$target/$aarch64_triple/release/kami
    side_by_side 'debian-12-arm64 rig_debian debian-12-arm64' 'debian-12-arm64-linux-6.12 rig_debian debian-12-arm64-linux-6.12' \
        'formats rig_formats'
}

# aarch64_build: the release binary and the test programs, whose paths it lists in $logs/aarch64-programs. Those are optimised a
# little: emulation takes twice as long without.
aarch64_build() {
    local programs
    "$top/scripts/cross" aarch64 || return
    cross_toolchain aarch64
    export CARGO_PROFILE_TEST_OPT_LEVEL=1
    rig_build_tests "$logs/aarch64-programs.log" --workspace --locked || return
    # What these ask of a store depends on no architecture, and they run thousands of commands.
    printf '%s\n' "${programs[@]}" | grep -vE '/(crowd|crowded|disk_faults|export|killed|no_room|power)-' >"$logs/aarch64-programs"
    echo "build: 1 passed, 0 failed"
}

# aarch64_tests PATTERN [RIG-OPTION]…: the test programs whose names match. All their files are in a tmpfs, and Debian's
# Linux 6.1 has no direct I/O there.
aarch64_tests() {
    local programs pattern=$1
    shift
    mapfile -t programs < <(printf '%s\n' "${aarch64_programs[@]}" | grep -E "/$pattern")
    # Fewer random histories with power cuts than natively: they depend on no architecture, and emulation takes ten times as long.
    rig_tests aarch64 --cpus 1 --env KAMI_HISTORIES=40 "$@" -- --skip block::tests::direct::
}

aarch64_hosts() {
    local kvm_programs='(guests|kami_vmm|lifecycle|machine)-' failed=0
    aarch64_tests "$kvm_programs" --cpu cortex-a57 --gic 2 || failed=1
    aarch64_tests "$kvm_programs" --cpu max,pauth-impdef=on || failed=1
    return $failed
}
