# What a disk costs a guest on this machine's own /dev/kvm: kami's disks, of roots of which nothing, half and all has been copied, next to
# fio with io_uring on the host's own file, qemu's microvm (raw, qcow2 over raw) and alioth, from the Rust registry, under the same load of
# the same test guest. All of them interleaved in one run; medians. Prints a table and writes target/bench/disk.json and plots
# (target/bench/disk-*.svg). tests/benches/disk says how things are measured. Sourced by scripts/bench.
# shellcheck shell=bash disable=SC2154

host_kvm
[ "$kvm" != none ] || die "$kvm_why"
need cc=gcc fio gnuplot=gnuplot-nox
if [ -n "$peers" ]; then
    need qemu-system-x86_64=qemu-system-x86 qemu-img=qemu-utils qemu-io=qemu-utils
    need_tool alioth alioth-cli@0.12.0
fi
build_kami
guest=$bench/test-guest.elf
cd "$top" || exit
cargo run -q --locked --release -p kami-kernels --example test-guest >"$guest"
options=(--kami "$kami" --kernel "$guest" --work "$bench/disk" --out "$bench")
[ -z "$rounds" ] || options+=(--rounds "$rounds")
[ -z "$quick" ] || options+=(--quick)
[ -n "$peers" ] || options+=(--no-peers)
cargo bench -q --locked -p kami-tests --bench disk -- "${options[@]}"
