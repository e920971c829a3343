#!/bin/sh
# Launches the image i386 twice: a kernel of 32 bits without PAE, entered by the 32-bit boot protocol. The guest looks at its machine
# itself (i386-init). Run by scripts/test in the emulated host, or on a machine whose KVM is hardware. Plain POSIX sh.
# Wants KAMI_HOME, and kami in PATH. Prints `ok: …` or `FAILED: …` for each check, no two alike.
set -u
work=$(mktemp -d)
failed=0

# launch NAME PROCESSORS MEMORY KIB-SEEN BOOTS: runs it to its end, and checks how it ended.
launch() {
    kami run i386 --name "$1" --cpus "$2" --memory "$3" --ephemeral-size 1G --timeout 2m --console "file=$work/$1" \
        --append "quiet processors=$2 memory_kib=$4 boots=$5"
    status=$?
    tr -d '\r' <"$work/$1" | grep -E '^(ok|FAILED): '
    if [ "$status" = 0 ] && tr -d '\r' <"$work/$1" | grep -q '^ok: .*MSI-X'; then
        echo "ok: i386: the $1 launch boots, and powers off with status 0"
    else
        echo "FAILED: i386: the $1 launch boots, and powers off with status 0; it ended with $status; its console:"
        tail -n 40 "$work/$1"
        failed=1
    fi
}

launch first 1 256M 200000 2
kib=$(find "$KAMI_HOME/volumes" -name '*.overlay' -exec du -k {} + | awk '{ sum += $1 } END { print sum + 0 }')
if [ "$kib" -ge 8192 ]; then
    echo "ok: i386: what the guest wrote to the root disk is in its overlay"
else
    echo "FAILED: i386: what the guest wrote to the root disk is in its overlay: $kib KiB"
    failed=1
fi
# A gigabyte of it lies above 4 GiB, where a kernel without PAE does not see it.
launch second 2 4G 2900000 1
rm -rf "$work"
exit "$failed"
