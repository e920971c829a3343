# Debian's root file system for another architecture than this machine's, without running any of its programs: the packages that
# this machine's image has are unpacked for that architecture, and what maintainer scripts and scripts/debian-image wrote, none
# of which depends on the architecture, is taken from this machine's image. dpkg inside knows of no package.
# Under qemu-user, configuring the packages and making the ramdisks takes minutes.
# Sourced by scripts/debian-image, whose variables it uses: architecture, base, work, mode, userns, newer, sources, keyring, suite.
# shellcheck shell=bash disable=SC2154

# foreign_root: lays it out under $work/root, with ramdisks in its /boot.
foreign_root() {
    local packages model=$work/model root=$work/root version
    mkdir -p "$model"
    "${userns[@]}" debugfs -R "rdump / $model" "$base/disk.raw" 2>/dev/null
    # shellcheck disable=SC2016 # dpkg-query expands it
    packages=$("${userns[@]}" dpkg-query --admindir="$model/var/lib/dpkg" -W -f '${Package} ' | tr ' ' '\n' | grep -v '^linux-image' | paste -sd,)
    mmdebstrap --quiet --mode="$mode" --variant=extract --architectures="$architecture" --keyring="$keyring" \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --aptopt='Apt::Install-Recommends "false"' \
        --include="$packages,linux-image-cloud-$architecture,$newer" "$suite" "$work/root.tar" "${sources[@]}" >&2 </dev/null ||
        die "mmdebstrap failed"
    "${userns[@]}" tar -C "$root" -xf "$work/root.tar" --exclude './dev/*' --exclude='./usr/share/'{doc,man,locale}'/*'
    rm "$work/root.tar"
    "${userns[@]}" tar -C "$model" -c --exclude='*x86_64*' --exclude='*x86-64*' --exclude='./lib64' --exclude='./usr/lib64' --exclude='./boot/*' \
        --exclude='./vmlinuz*' --exclude='./initrd*' --exclude='./usr/lib/modules/*' --exclude='./var/lib/dpkg/*' --exclude='./lost+found' . |
        "${userns[@]}" tar -C "$root" -x --skip-old-files --keep-directory-symlink
    "${userns[@]}" cp -a "$model/etc/." "$root/etc/"
    "${userns[@]}" rm "$root/etc/ld.so.cache"
    debian_unpack "busybox-static:$architecture" "$work/busybox"
    for version in $(cd "$root/usr/lib/modules" && echo *); do foreign_ramdisk "$version"; done
    "${userns[@]}" rm -rf "$model" "$work/busybox"
}

# foreign_ramdisk VERSION: makes root/boot/initrd.img-VERSION, with the drivers of the root disk.
foreign_ramdisk() {
    local ramdisk=$work/ramdisk module
    "${userns[@]}" depmod -b "$work/root" "$1"
    mkdir -p "$ramdisk"/{bin,dev,proc,sys,modules,root}
    cp "$work/busybox/bin/busybox" "$ramdisk/bin/busybox"
    install -m 755 "$top/scripts/lib/debian-foreign-init" "$ramdisk/init"
    : >"$ramdisk/modules/order"
    for module in virtio_pci virtio_blk ext4; do
        modprobe -d "$work/root" -S "$1" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r module; do
        case $module in
            *.xz) xz -dc "$module" >"$ramdisk/modules/$(basename "$module" .xz)" ;;
            *) cp "$module" "$ramdisk/modules/" ;;
        esac
        basename "$module" .xz >>"$ramdisk/modules/order"
    done
    (cd "$ramdisk" && find . | cpio -o -H newc -R 0:0 --quiet) | zstd -q | "${userns[@]}" sh -c "cat >$work/root/boot/initrd.img-$1"
    rm -rf "$ramdisk"
}
