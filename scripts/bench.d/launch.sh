# What a launch costs on this machine's own /dev/kvm: kami run of the built-in test guest from a stored image with a root and two
# ephemeral disks; a floor in C that makes only the KVM calls for the same guest; qemu's microvm and alioth, from the Rust
# registry, booting the same guest. 1 vCPU, 128 MiB. All of them interleaved in one run; medians. Prints a table and writes
# target/bench/launch.json. tests/benches/launch says how things are measured. Sourced by scripts/bench.
# shellcheck shell=bash disable=SC2154

host_kvm
[ "$kvm" != none ] || die "$kvm_why"
guest=$bench/test-guest.elf
hello=kami.test=hello
need cc=gcc
build_kami
cc -O2 -Wall -Wextra -static -o "$bench/floor" "$top/scripts/bench.d/floor.c"
(cd "$top" && cargo run -q --locked --release -p kami-kernels --example test-guest) >"$guest"

# The stored image: its root disk holds 64 MiB of data; what the guest does with it is nothing.
export KAMI_HOME=$bench/home
rm -rf "$KAMI_HOME"
truncate -s 1G "$bench/root.raw"
dd if=/dev/urandom of="$bench/root.raw" bs=1M count=64 conv=notrunc status=none
kernel=$("$kami" kernel import "$guest" --name test-guest | grep -o 'aki-[0-9a-f]*')
snapshot=snap-0bee0000000000001
cat >"$bench/image.json" <<MANIFEST
{
  "ImageId": "ami-0bee0000000000001", "Name": "bench", "Architecture": "x86_64", "VirtualizationType": "hvm",
  "KernelId": "$kernel", "RootDeviceName": "/dev/sda1", "RootDeviceType": "ebs",
  "BlockDeviceMappings": [
    { "DeviceName": "/dev/sda1", "Ebs": { "SnapshotId": "$snapshot", "VolumeSize": 1 } },
    { "DeviceName": "/dev/sdb", "VirtualName": "ephemeral0" },
    { "DeviceName": "/dev/sdc", "VirtualName": "ephemeral1" }
  ]
}
MANIFEST
"$kami" image register "$bench/image.json" --snapshot "$snapshot=$bench/root.raw" >/dev/null

subjects=(
    --subject kami --after "$kami rm bench" --
    "$kami" run bench --name bench --cpus 1 --memory 128M --append "$hello" ';'
    --subject floor -- "$bench/floor" "$guest" "$hello" ';'
)
if [ -n "$peers" ]; then
    need qemu-system-x86_64=qemu-system-x86
    need_tool alioth alioth-cli@0.12.0
    # shellcheck disable=SC2054 # qemu's commas
    subjects+=(
        --subject qemu-microvm -- qemu-system-x86_64 -M microvm,pit=off,pic=off,rtc=off,auto-kernel-cmdline=off -accel kvm
        -cpu host,-arch-capabilities -m 128M -smp 1 -nodefaults -no-user-config -display none -no-reboot -serial stdio
        -kernel "$guest" -append "$hello" ';'
        # It wants a terminal for its console's input.
        --subject alioth --tty -- alioth -l off boot --pvh "$guest" -c "$hello" -m size=128M -p count=1 ';'
    )
fi
cd "$top" || exit
cargo bench -q --locked -p kami-tests --bench launch -- --rounds "${rounds:-41}" --json "$bench/launch.json" "${subjects[@]}"
