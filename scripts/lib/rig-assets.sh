# The emulated host that scripts/rig boots: Debian's generic kernel, unpacked, and an initramfs of busybox and modules.
# Sourced by bash after common.sh and debian.sh; cached under target/rig.
# shellcheck shell=bash disable=SC2154

# What the emulated host needs; modprobe adds what these depend on.
rig_modules=(virtio_pci virtio_blk virtio_console virtio_rng ext4 9p 9pnet_virtio kvm_amd)

# rig_assets: makes target/rig/{vmlinux,initramfs} and sets rig_dir.
rig_assets() {
    local lib=$top/scripts/lib stamp package version root module line
    rig_dir=$target/rig
    stamp=$(digest_of "$lib/rig-assets.sh" "$lib/rig-init" "$lib/debian.sh")
    only_one rig-assets
    if ! is_fresh "$rig_dir/initramfs" "$stamp"; then
        need qemu-system-x86_64=qemu-system-x86 mke2fs=e2fsprogs cpio modprobe=kmod xz=xz-utils
        debian_view
        package=$(debian_kernel generic 6.1)
        version=${package#linux-image-}
        say "making the emulated host from $package (once)"
        rm -rf "$rig_dir/build"
        mkdir -p "$rig_dir/build/packages" "$rig_dir/build/root"/{bin,dev,proc,sys,modules,root}
        root=$rig_dir/build/root
        debian_unpack "$package" "$rig_dir/build/packages"
        debian_unpack busybox-static "$rig_dir/build/packages"
        cp "$rig_dir/build/packages/bin/busybox" "$root/bin/busybox"
        cp "$root/bin/busybox" "$rig_dir/busybox"
        install -m 755 "$lib/rig-init" "$root/init"
        depmod -b "$rig_dir/build/packages" "$version"
        for module in "${rig_modules[@]}"; do
            modprobe -d "$rig_dir/build/packages" -S "$version" --show-depends "$module"
        done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$rig_dir/build/order"
        while read -r line; do
            cp "$line" "$root/modules/"
            basename "$line" >>"$root/modules/order"
        done <"$rig_dir/build/order"
        unpack_bzimage "$rig_dir/build/packages/boot/vmlinuz-$version" >"$rig_dir/vmlinux"
        (cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet) >"$rig_dir/initramfs"
        rm -rf "$rig_dir/build"
        mark_fresh "$rig_dir/initramfs" "$stamp"
    fi
    need qemu-system-x86_64=qemu-system-x86 mke2fs=e2fsprogs
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
