#!/bin/sh
# Boots an image of Debian twice, and once to a panic, and looks at it from inside and from outside. Run by scripts/test in the emulated host
# (or on a machine whose KVM is hardware) for every kernel that is to be supported. Plain POSIX sh.
# Usage: debian.sh CONSOLE-LIBRARY IMAGE; wants KAMI_HOME, and kami in PATH. Prints `ok: …` or `FAILED: …` for each check, no two alike.
# shellcheck disable=SC2016,SC2317 # what is quoted expands in the guest; check calls the functions
set -u
# shellcheck source=../../scripts/lib/console.sh
. "$1"
image=$2
work=$(mktemp -d)
failed=0
# What a boot or a shutdown may take, in an emulated host on a machine that does much else.
boot_seconds=300

check() {
    outcome=$1
    shift
    if "$@"; then
        echo "ok: $image: $outcome"
    else
        echo "FAILED: $image: $outcome"
        failed=$((failed + 1))
    fi
}
guest() { console_run "$1" || { echo "in the guest: $1: $console_said"; return 1; }; }
overlay_kib() { find "$KAMI_HOME/volumes" -name '*.overlay' -exec du -k {} + | awk '{ sum += $1 } END { print sum + 0 }'; }

# launch NAME [OPTION]…: launches the image and logs in; without a login nothing else can be said.
launch() {
    name=$1
    shift
    console_open "$work/$name" kami run "$image" --name "$name" --ephemeral-size 1G --timeout 15m "$@"
    if console_login "$boot_seconds"; then
        echo "ok: $image: $name launch boots to a login"
    else
        echo "FAILED: $image: $name launch boots to a login; its console:"
        tail -n 40 "$work/$name"
        exit 1
    fi
}
# stop NAME: presses the power button and waits for the launch's end.
stop() {
    kami stop --time "$boot_seconds" "$1" && console_close "$boot_seconds"
}

launch first --memory 512M
check "systemd reaches its default target" guest 'systemctl is-system-running --wait; systemctl is-active default.target'
check "both ephemeral disks are there, blank and of their size" guest \
    'test "$(lsblk -bdno SIZE /dev/vdb /dev/vdc | sort -u)" = 1073741824 && cmp -n 1048576 /dev/vdb /dev/zero'
check "the root disk's serial is its volume's id" guest 'ls /dev/disk/by-id/ | grep -E "^virtio-vol[0-9a-f]{17}$"'
before=$(overlay_kib)
check "the guest writes to the root disk" guest 'echo first >/root/mark && head -c 8M /dev/urandom >/root/noise && sync'
check "the guest writes to both ephemeral disks" guest \
    'for disk in /dev/vdb /dev/vdc; do dd if=/root/noise of=$disk bs=1M oflag=direct status=none && cmp -n 8388608 /root/noise $disk || exit 1; done'
check "the writes are in the overlays" test "$(overlay_kib)" -ge $((before + 3 * 8192))
check "it shows in kami ps as running" sh -c "kami ps | grep -w first | grep -w running"
check "the power button ends the first launch, with status 0" stop first
check "it shows in kami ps -a as stopped" sh -c "kami ps -a | grep -w first | grep -w stopped"
check "its console is in kami logs" sh -c "kami logs first | grep -q 'login: '"

# More than fits below the hole that PCI needs under 4 GiB.
launch second --cpus 2 --memory 4G
check "it has both processors and all memory" guest 'test "$(nproc)" = 2 && test "$(awk "/MemTotal/ { print \$2 }" /proc/meminfo)" -gt 3900000'
check "it sees none of the first one's writes" guest '! test -e /root/mark && cmp -n 8388608 /dev/vdb /dev/zero && cmp -n 8388608 /dev/vdc /dev/zero'
guest 'echo second >/root/mark && echo second >/dev/vdb && sync'
console_forget
console_type 'systemctl reboot'
check "it reboots in the same process" console_login "$boot_seconds"
check "with the disks as they were" guest 'test "$(cat /root/mark)" = second && test "$(head -c 6 /dev/vdb)" = second'
console_type 'systemctl poweroff'
check "its own power off ends the second launch, with status 0" console_close "$boot_seconds"

# Neither its ramdisk's nor its own first process starts, on any architecture and whatever the ramdisk holds.
panic() {
    kami run "$image" --name third --memory 512M --timeout 5m --append 'panic=-1 rdinit=/dev init=/nonexistent' </dev/null >"$work/third" 2>&1
    test $? = 100
}
check "a kernel panic ends the third launch, with status 100" panic
check "kami rm removes them" kami rm first second third
check "no volume is left" test "$(overlay_kib)" = 0
rm -rf "$work"
exit "$failed"
