# What a store costs: importing the Debian image of scripts/debian-image from qcow2, next to qemu-img convert; making a root volume of
# 1 GiB, 100 GiB and 16 TiB, next to qemu-img create -b and cp --reflink=auto; snapshots after scattered writes, a volume of 16 TiB, 20 images that
# differ in 5 %, pages of 10,000 images and 100,000 snapshots. Medians of 5 rounds, of 20 for what takes
# milliseconds. Prints a table and writes target/bench/store.json. tests/benches/store says how things are measured.
# Sourced by scripts/bench.
# shellcheck shell=bash disable=SC2154

need qemu-img=qemu-utils
build_kami
"$top/scripts/debian-image"
cd "$top" || exit
cargo bench -q --locked -p kami-tests --bench store -- --rounds "${rounds:-5}" --kami "$kami" \
    --disk "$target/images/debian-12/disk.qcow2" --work "$bench/store" --json "$bench/store.json"
