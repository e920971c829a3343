# A KAMI_HOME with the Debian image in it, made by the commands that a person would type.
# Sourced by bash after common.sh.
# shellcheck shell=bash disable=SC2034,SC2154

# show COMMAND [ARG]…: runs a command after showing it.
show() {
    printf '$ %s\n' "${*/#$target/target}" >&2
    "$@"
}

# debian_manifest NAME IMAGE-ID KERNEL-ID RAMDISK-ID SNAPSHOT-ID: the image as EC2's describe-images would show it.
debian_manifest() {
    cat <<EOF_MANIFEST
{
  "Images": [
    {
      "ImageId": "$2",
      "Name": "$1",
      "Description": "Debian 12 made by scripts/debian-image",
      "Architecture": "x86_64",
      "ImageType": "machine",
      "VirtualizationType": "hvm",
      "KernelId": "$3",
      "RamdiskId": "$4",
      "RootDeviceName": "/dev/sda1",
      "RootDeviceType": "ebs",
      "BlockDeviceMappings": [
        {
          "DeviceName": "/dev/sda1",
          "Ebs": { "SnapshotId": "$5", "VolumeSize": 2, "VolumeType": "gp3", "DeleteOnTermination": true }
        },
        { "DeviceName": "/dev/sdb", "VirtualName": "ephemeral0" },
        { "DeviceName": "/dev/sdc", "VirtualName": "ephemeral1" }
      ]
    }
  ]
}
EOF_MANIFEST
}

# debian_home: sets home to a KAMI_HOME whose images debian-12 (Linux 6.1) and debian-12-linux-6.12 share one snapshot.
debian_home() {
    local image=$target/images/debian-12 snapshot=snap-0deb1a00000000012 series name id kernel ramdisk stamp
    home=$target/quickstart/home
    stamp=$(digest_of "$image/disk.qcow2.stamp" "$kami" "$top/scripts/lib/home.sh")
    if is_fresh "$home" "$stamp"; then return 0; fi
    rm -rf "$target/quickstart"
    mkdir -p "$home"
    export KAMI_HOME=$home
    for series in 6.1 6.12; do
        case $series in
            6.1) name=debian-12 id=ami-0deb1a00000060100 ;;
            6.12) name=debian-12-linux-6.12 id=ami-0deb1a00000061200 ;;
        esac
        kernel=$(show "$kami" kernel import "$image/vmlinuz-$series" --name "linux-$series" | grep -o 'aki-[0-9a-f]*')
        ramdisk=$(show "$kami" kernel import "$image/initrd-$series" --name "initrd-$series" | grep -o 'ari-[0-9a-f]*')
        debian_manifest "$name" "$id" "$kernel" "$ramdisk" "$snapshot" >"$home/../$name.json"
    done
    show "$kami" image register "$home/../debian-12.json" --snapshot "$snapshot=$image/disk.qcow2" >&2
    show "$kami" image register "$home/../debian-12-linux-6.12.json" >&2
    mark_fresh "$home" "$stamp"
}

# debian_home_disk: sets home_disk to an ext4 image of it, for the emulated host.
debian_home_disk() {
    home_disk=$target/quickstart/home.ext4
    local stamp
    stamp=$(cat "$home.stamp")
    if is_fresh "$home_disk" "$stamp"; then return 0; fi
    rm -f "$home_disk"
    truncate -s 16G "$home_disk"
    mke2fs -q -F -t ext4 -E lazy_itable_init=1 -m 0 -d "$home" "$home_disk"
    mark_fresh "$home_disk" "$stamp"
}
