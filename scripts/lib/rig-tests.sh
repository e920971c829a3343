# The workspace's test programs in an emulated host. Sourced by bash after common.sh and debian.sh.
# shellcheck shell=bash disable=SC2154

# rig_build_tests LOG [CARGO-ARGUMENT]…: builds the test programs for $CARGO_BUILD_TARGET, and sets programs to their paths.
rig_build_tests() {
    local log=$1 program
    shift
    programs=()
    (cd "$top" && cargo test --no-run "$@") >"$log" 2>&1 || { cat "$log" && return 1; }
    while read -r program; do
        programs+=("$(cd "$top" && realpath -s "$program")")
    done < <(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$log")
    [ ${#programs[@]} -gt 0 ]
}

# rig_test_files PROGRAM…: sets files to the options of scripts/rig that take the programs along, with what tests want: the
# fixtures beside the sources and the programs that they start, at the same absolute paths.
rig_test_files() {
    local program package folder
    files=()
    for program; do files+=(--file "$program"); done
    for package in image devices kernels vmm tests scripts; do files+=(--file "$top/$package"); done
    folder=${1%/*}
    for program in "${folder%/deps}"/kami*; do
        if [ -f "$program" ] && [ -x "$program" ]; then files+=(--file "$program"); fi
    done
}

# rig_reference_tools ARCHITECTURE: adds qemu-img and qemu-io, the tests' reference for disk formats, to files. They are no static
# programs; their libraries serve test programs that are none either.
rig_reference_tools() {
    local folder=$target/rig/$1/qemu-utils program library stamp
    if [ "$1" = "$(uname -m)" ]; then
        need qemu-img=qemu-utils
        for program in qemu-img qemu-io; do
            files+=(--file "$(command -v "$program"):/bin/$program")
            while read -r library; do files+=(--file "$library"); done < <(ldd "$(command -v "$program")" | grep -o '/[^ ]*')
        done
        return
    fi
    stamp=$(digest_of "$top/scripts/lib/rig-tests.sh" "$top/scripts/lib/debian.sh")
    only_one "rig-assets-$1"
    if ! is_fresh "$folder" "$stamp"; then
        debian_view
        say "unpacking qemu-utils for the emulated $1 host (once)"
        rm -rf "$folder"
        debian_unpack_all "qemu-utils:arm64" "$folder"
        rm -rf "${folder:?}"/usr/share "$folder"/usr/lib/*/gconv
        mark_fresh "$folder" "$stamp"
    fi
    exec {lock_fd}>&-
    files+=(--file "$folder/lib:/lib" --file "$folder/usr/lib:/usr/lib")
    for program in qemu-img qemu-io; do files+=(--file "$folder/usr/bin/$program:/bin/$program"); done
}

# rig_tests ARCHITECTURE [RIG-OPTION]… -- [TEST-ARGUMENT]…: runs programs, all in one boot of the emulated host.
rig_tests() {
    local architecture=$1 options=() files program arguments script=failed=0
    shift
    while [ "$1" != -- ]; do options+=("$1") && shift; done
    shift
    rig_test_files "${programs[@]}"
    rig_reference_tools "$architecture"
    arguments=$([ $# = 0 ] || printf ' %q' "$@")
    for program in "${programs[@]}"; do script+=$(printf '\necho Running %q\n%q%s || failed=1' "$program" "$program" "$arguments"); done
    "$top/scripts/rig" --arch "$architecture" --timeout 1800 --memory 8G "${options[@]}" "${files[@]}" sh -c "$script"$'\nexit $failed'
}
