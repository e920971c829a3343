# A small guest of 32 bits, and the suite that boots it: Debian's linux-image-686, an initramfs of its modules, a root disk of a
# static busybox, and an image of Architecture i386 made of them. Sourced by bash after debian.sh; uses the variables of scripts/test.
# shellcheck shell=bash disable=SC2154

# i386_packages FOLDER: lays the kernel's and busybox's files under FOLDER, and sets i386_version. They come from a view of their
# own, of the release alone: mirrors have been seen without a whole list of security's i386 packages.
i386_packages() {
    local view=$target/debian/apt-i386 sources=() package
    if [ -z "$(find "$view.stamp" -mmin -1440 2>/dev/null)" ]; then
        need mmdebstrap
        [ -e "$keyring" ] || need debian-archive-keyring
        rm -rf "$view"
        mkdir -p "${view%/*}"
        mapfile -t sources < <(debian_sources | grep " $suite main\$")
        mmdebstrap --quiet --variant=custom --mode=chrootless --architectures=i386 --keyring="$keyring" \
            --skip=cleanup/apt,cleanup/apt/lists "$suite" "$view" "${sources[@]}" >&2 ||
            die "cannot read Debian's package lists for i386" "is a Debian mirror reachable from here?"
        touch "$view.stamp"
    fi
    package=$(i386_apt cache pkgnames linux-image-6.1. | grep -E -- '^linux-image-[0-9.-]+-686$' | sort -V | tail -n1)
    i386_version=${package#linux-image-}
    mkdir -p "$1/deb"
    (cd "$1/deb" && i386_apt get download "$package" busybox-static >&2) || die "cannot download Debian's $package"
    for package in "$1"/deb/*.deb; do dpkg-deb -x "$package" "$1"; done
}

i386_apt() {
    local tool=$1
    shift
    "apt-$tool" -q -o Dir="$view" -o Dir::State::status="$view/var/lib/dpkg/status" -o APT::Sandbox::User= \
        -o APT::Architecture=i386 -o APT::Architectures=i386 "$@"
}

# i386_assets: makes target/i386/{vmlinuz,initrd,disk.raw}, once.
i386_assets() {
    local out=$target/i386 work=$target/i386.new stamp module root
    stamp=$(digest_of "$top/scripts/lib/i386.sh" "$top/tests/rig/i386-init")
    only_one i386
    if is_fresh "$out/disk.raw" "$stamp"; then return 0; fi
    need mke2fs=e2fsprogs cpio modprobe=kmod
    say "making a guest of linux-image-686 (once)"
    rm -rf "$work"
    i386_packages "$work/packages"
    depmod -b "$work/packages" "$i386_version"
    root=$work/initramfs
    mkdir -p "$root"/{bin,dev,modules,root} "$work/root"/{bin,sbin,dev,proc,sys,tmp}
    for module in virtio_pci virtio_blk ext4 crc32c_generic; do
        modprobe -d "$work/packages" -S "$i386_version" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r module; do
        cp "$module" "$root/modules/"
        echo "/modules/${module##*/}" >>"$root/modules/order"
    done
    cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "$module"; done </modules/order
/bin/busybox mount -t ext4 /dev/vda /root
exec /bin/busybox switch_root /root /sbin/init
INIT
    chmod +x "$root/init"
    cp "$work/packages/bin/busybox" "$root/bin/"
    (cd "$root" && find . | cpio -o -H newc -R 0:0 --quiet | gzip -1) >"$work/initrd"
    cp "$work/packages/bin/busybox" "$work/root/bin/"
    install -m 755 "$top/tests/rig/i386-init" "$work/root/sbin/init"
    truncate -s 32M "$work/disk.raw"
    mke2fs -q -F -t ext4 -d "$work/root" "$work/disk.raw"
    cp "$work/packages/boot/vmlinuz-$i386_version" "$work/vmlinuz"
    rm -rf "$work/packages" "$work/initramfs" "$work/root" "$out"
    mark_fresh "$work/disk.raw" "$stamp"
    mv "$work" "$out"
}

# i386_home: sets i386_home to a KAMI_HOME with the image i386, whose root disk is 1 GiB and which has one ephemeral disk.
i386_home() {
    local out=$target/i386 kernel ramdisk
    i386_home=$out/home
    rm -rf "$i386_home"
    mkdir -p "$i386_home"
    kernel=$(KAMI_HOME=$i386_home "$kami" kernel import "$out/vmlinuz" | grep -o 'aki-[0-9a-f]*')
    ramdisk=$(KAMI_HOME=$i386_home "$kami" kernel import "$out/initrd" | grep -o 'ari-[0-9a-f]*')
    cat >"$out/image.json" <<EOF_MANIFEST
{ "Images": [ {
  "ImageId": "ami-0deb1a00000003860", "Name": "i386", "Architecture": "i386", "ImageType": "machine",
  "VirtualizationType": "hvm", "KernelId": "$kernel", "RamdiskId": "$ramdisk",
  "RootDeviceName": "/dev/sda1", "RootDeviceType": "ebs",
  "BlockDeviceMappings": [
    { "DeviceName": "/dev/sda1", "Ebs": { "SnapshotId": "snap-0deb1a00000003860", "VolumeSize": 1 } },
    { "DeviceName": "/dev/sdb", "VirtualName": "ephemeral0" } ] } ] }
EOF_MANIFEST
    KAMI_HOME=$i386_home "$kami" image register "$out/image.json" --snapshot "snap-0deb1a00000003860=$out/disk.raw" >&2
}

# rig_i386: the launches of tests/rig/i386.sh, natively where the KVM is hardware.
rig_i386() {
    i386_assets
    i386_home
    i386_launches | tee "$logs/i386.checks"
    # A second try of the emulated host repeats lines.
    awk '/^ok: / && !seen[$0]++ { ok++ } /^FAILED: / { failed++ }
        END { printf "launches: %d passed, %d failed\n", ok, failed; exit failed > 0 }' "$logs/i386.checks"
}

i386_launches() {
    local command="$top/tests/rig/i386.sh"
    if [ "$kvm" = hardware ]; then
        KAMI_HOME=$i386_home PATH=${kami%/*}:$PATH timeout 300 sh "$command" 2>&1
    else
        "$top/scripts/rig" --cpus 1 --timeout 300 --memory 5G --env KAMI_HOME=/home --file "$i386_home:/home" \
            --file "$kami:/bin/kami" --file "$command" sh "$command" 2>&1
    fi || echo "FAILED: i386: ended with status $?"
}
