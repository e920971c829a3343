#!/bin/sh
# What scripts/quickstart shows, on this machine or in the emulated host: a launch of the image debian-12, its boot to the
# login prompt, its disks from inside, its power off. Plain POSIX sh. Wants KAMI_HOME, and kami in PATH.
set -eu
. "$(dirname "$0")/console.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2034 # console.sh reads it
console_show=yes
console_open "$work/console" kami run debian-12 --name quickstart --rm --memory 512M --ephemeral-size 1G --timeout 10m
console_login 300
console_forget
console_type lsblk
console_wait 60 'root@kami:~# '
console_type 'systemctl poweroff'
console_close 300
