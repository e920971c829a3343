# A KAMI_HOME with the Debian image in it, made by the commands that a person would type.
# Sourced by bash after common.sh.
# shellcheck shell=bash disable=SC2034,SC2154

# show COMMAND [ARG]…: runs a command after showing it.
show() {
    printf '$ %s\n' "${*/#$target/target}" >&2
    "$@"
}

# debian_manifest NAME ARCHITECTURE IMAGE-ID KERNEL-ID RAMDISK-ID SNAPSHOT-ID: the image as EC2's describe-images would show it.
debian_manifest() {
    cat <<EOF_MANIFEST
{
  "Images": [
    {
      "ImageId": "$3",
      "Name": "$1",
      "Description": "Debian 12 made by scripts/debian-image",
      "Architecture": "$2",
      "ImageType": "machine",
      "VirtualizationType": "hvm",
      "KernelId": "$4",
      "RamdiskId": "$5",
      "RootDeviceName": "/dev/sda1",
      "RootDeviceType": "ebs",
      "BlockDeviceMappings": [
        {
          "DeviceName": "/dev/sda1",
          "Ebs": { "SnapshotId": "$6", "VolumeSize": 2, "VolumeType": "gp3", "DeleteOnTermination": true }
        },
        { "DeviceName": "/dev/sdb", "VirtualName": "ephemeral0" },
        { "DeviceName": "/dev/sdc", "VirtualName": "ephemeral1" }
      ]
    }
  ]
}
EOF_MANIFEST
}

# debian_home amd64|arm64: sets home to a KAMI_HOME with the images that scripts/debian-image made for that architecture: debian-12
# (Linux 6.1) and debian-12-linux-6.12, which share one snapshot; of another architecture than this machine's, debian-12-arm64 and so on.
debian_home() {
    local native architecture=$1 image name=debian-12 word digits=000 snapshot series id kernel ramdisk stamp
    native=$(dpkg --print-architecture)
    home=$target/quickstart/home
    if [ "$architecture" != "$native" ]; then
        name+=-$architecture
        home+=-$architecture
    fi
    case $architecture in
        amd64) word=x86_64 ;;
        arm64) word=arm64 digits=064 ;;
    esac
    image=$target/images/$name snapshot=snap-0deb1a00${digits}000012
    stamp=$(digest_of "$image/disk.qcow2.stamp" "$kami" "$top/scripts/lib/home.sh")
    if is_fresh "$home" "$stamp"; then return 0; fi
    rm -rf "$home" "$home.stamp"
    mkdir -p "$home"
    export KAMI_HOME=$home
    for series in 6.1 6.12; do
        case $series in
            6.1) id=ami-0deb1a00${digits}060100 ;;
            6.12) id=ami-0deb1a00${digits}061200 name+=-linux-6.12 ;;
        esac
        kernel=$(show "$kami" kernel import "$image/vmlinuz-$series" --name "linux-$series" | grep -o 'aki-[0-9a-f]*')
        ramdisk=$(show "$kami" kernel import "$image/initrd-$series" --name "initrd-$series" | grep -o 'ari-[0-9a-f]*')
        debian_manifest "$name" "$word" "$id" "$kernel" "$ramdisk" "$snapshot" >"$target/quickstart/$name.json"
    done
    show "$kami" image register "${home%/*}/${name%-linux-6.12}.json" --snapshot "$snapshot=$image/disk.qcow2" >&2
    show "$kami" image register "${home%/*}/$name.json" >&2
    mark_fresh "$home" "$stamp"
}

# debian_home_disk: sets home_disk to an ext4 image of it, for the emulated host.
debian_home_disk() {
    home_disk=$home.ext4
    local stamp
    stamp=$(cat "$home.stamp")
    if is_fresh "$home_disk" "$stamp"; then return 0; fi
    rm -f "$home_disk"
    truncate -s 16G "$home_disk"
    mke2fs -q -F -t ext4 -E lazy_itable_init=1 -m 0 -d "$home" "$home_disk"
    mark_fresh "$home_disk" "$stamp"
}
