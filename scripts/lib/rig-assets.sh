# The emulated hosts that scripts/rig boots: Debian's generic kernel, and an initramfs of busybox and modules.
# Sourced by bash after common.sh and debian.sh; cached under target/rig.
# shellcheck shell=bash disable=SC2154

# What an emulated host needs; modprobe adds what these depend on. On Arm, KVM is built in.
rig_modules=(virtio_pci virtio_blk virtio_console virtio_rng ext4 9p 9pnet_virtio)

# rig_assets ARCHITECTURE: makes target/rig/ARCHITECTURE/{kernel,initramfs,busybox} and sets rig_dir.
rig_assets() {
    local lib=$top/scripts/lib modules=("${rig_modules[@]}") unpack=cat emulator debian stamp package version build root module line
    case $1 in
        x86_64) debian=amd64 emulator=qemu-system-x86_64=qemu-system-x86 unpack=unpack_bzimage modules+=(kvm_amd) ;;
        # An `Image`: not packed.
        aarch64) debian=arm64 emulator=qemu-system-aarch64=qemu-system-arm ;;
        *) die "no emulated host of the architecture $1 is known" "it is x86_64 or aarch64" ;;
    esac
    rig_dir=$target/rig/$1
    stamp=$(digest_of "$lib/rig-assets.sh" "$lib/rig-init" "$lib/debian.sh")
    only_one "rig-assets-$1"
    if ! is_fresh "$rig_dir/initramfs" "$stamp"; then
        need "$emulator" mke2fs=e2fsprogs cpio modprobe=kmod xz=xz-utils
        debian_view
        package=$(debian_kernel generic 6.1 "$debian")
        version=${package#linux-image-}
        say "making the emulated $1 host from $package (once)"
        build=$rig_dir/build
        root=$build/root
        rm -rf "$build"
        mkdir -p "$root"/{bin,dev,proc,sys,modules,root}
        debian_unpack "$package:$debian" "$build"
        debian_unpack "busybox-static:$debian" "$build"
        cp "$build/bin/busybox" "$root/bin/busybox"
        cp "$build/bin/busybox" "$rig_dir/busybox"
        install -m 755 "$lib/rig-init" "$root/init"
        depmod -b "$build" "$version"
        for module in "${modules[@]}"; do
            modprobe -d "$build" -S "$version" --show-depends "$module"
        done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$build/order"
        while read -r line; do
            cp "$line" "$root/modules/"
            basename "$line" >>"$root/modules/order"
        done <"$build/order"
        "$unpack" "$build/boot/vmlinuz-$version" >"$rig_dir/kernel"
        (cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$rig_dir/initramfs"
        rm -rf "$build"
        mark_fresh "$rig_dir/initramfs" "$stamp"
    fi
    need "$emulator" mke2fs=e2fsprogs
    exec {lock_fd}>&-
}

# unpack_bzimage FILE: the vmlinux in it (Documentation/arch/x86/boot.rst, setup_sects, payload_offset, payload_length);
# booting that by its PVH entry saves the decompression, which emulation makes slow.
unpack_bzimage() {
    local sects offset length
    sects=$(od -An -tu1 -j497 -N1 "$1")
    read -r offset length < <(od -An -tu4 -j584 -N8 "$1")
    # The last four bytes are the unpacked size, no part of the xz stream.
    dd if="$1" bs=1M iflag=skip_bytes,count_bytes status=none skip=$(((sects + 1) * 512 + offset)) count=$((length - 4)) | xz -dc
}
