#!/bin/sh
# The documented life of an image, on real guests: import it, run it, change what runs, make an image of that, deregister the first one
# under the running guest, run the second one, make a third, roll back to the second by parameter, prune. Run by scripts/test
# in the emulated host (or on a machine whose KVM is hardware). Plain POSIX sh.
# Usage: life.sh CONSOLE-LIBRARY DISK; wants KAMI_HOME with a kernel and its initial ramdisk, the disk of a Debian root file system,
# and kami in PATH. Prints `ok: …` or `FAILED: …` for each check, no two alike, and each command before it.
# shellcheck disable=SC2016,SC2317 # what is quoted expands in the guest; check calls the functions
set -u
# shellcheck source=../../scripts/lib/console.sh
. "$1"
disk=$2
work=$(mktemp -d)
failed=0
# What a boot or a shutdown may take, in an emulated host on a machine that does much else.
boot_seconds=300

check() {
    outcome=$1
    shift
    if "$@"; then
        echo "ok: life: $outcome"
    else
        echo "FAILED: life: $outcome"
        failed=$((failed + 1))
    fi
}
# kami, said before it is done, as in a transcript.
do_kami() {
    echo "\$ kami $*"
    kami "$@"
}
not() { ! "$@"; }
lists() { kami "$1" ls | grep -qw -- "$2"; }
guest() { console_run "$1" || { echo "in the guest: $1: $console_said"; return 1; }; }
content_kib() { du -sk "$KAMI_HOME/segments" | cut -f1; }

# launch NAME IMAGE [OPTION]…: launches the image and logs in; without a login nothing else can be said.
launch() {
    name=$1 image=$2
    shift 2
    echo "\$ kami run $image --name $name --memory 512M $*"
    console_open "$work/$name" kami run "$image" --name "$name" --memory 512M --timeout 15m "$@"
    if console_login "$boot_seconds"; then
        echo "ok: life: $name of $image boots to a login"
    else
        echo "FAILED: life: $name of $image boots to a login; its console:"
        tail -n 40 "$work/$name"
        exit 1
    fi
}
stop() { do_kami stop --time "$boot_seconds" "$1" && console_close "$boot_seconds"; }

before=$(content_kib)
check "a disk is imported" do_kami image import "$disk" --name web-1 --tag team=web
check "what the store held already is not stored again" test $(($(content_kib) - before)) -lt 4096
check "a parameter names it" do_kami parameter put /golden/web web-1

kernel_id() { kami kernel ls | grep -ow "$1-[0-9a-f]*" | head -n 1; }
launch first resolve:ssm:/golden/web --kernel "$(kernel_id aki)" --initrd "$(kernel_id ari)"
check "the guest is changed" guest 'echo two >/srv/version && head -c 8M /dev/urandom >/srv/noise && sha256sum /srv/noise >/srv/sum && sync'
before=$(content_kib)
check "an image is made of it as it runs" do_kami image create first --name web-2 --no-reboot --tag team=web
check "that costs what was changed" test $(($(content_kib) - before)) -lt $((256 * 1024))
check "the parameter names the new one" do_kami parameter put /golden/web web-2
check "the first image is deregistered, and its snapshot deleted" do_kami image deregister web-1 --delete-snapshots
check "it is listed no more" not lists image web-1
check "the guest of it runs on, and reads and writes its disk" \
    guest 'sync && echo 3 >/proc/sys/vm/drop_caches && sha256sum -c /srv/sum && cp /srv/noise /srv/again && sync && cmp /srv/noise /srv/again'
check "its power button ends it" stop first
check "it is terminated, with its volume" do_kami terminate first

launch second resolve:ssm:/golden/web
check "it has what was changed, and not what was written after" guest 'sha256sum -c /srv/sum && test "$(cat /srv/version)" = two && ! test -e /srv/again'
check "it is changed in its turn" guest 'echo three >/srv/version && rm /srv/noise && sync'
check "a third image is made of it" do_kami image create second --name web-3 --no-reboot
check "the parameter names the third" do_kami parameter put /golden/web web-3
check "the second guest ends" stop second
check "it is removed" do_kami rm second

check "the parameter is rolled back to its second version" do_kami parameter put /golden/web resolve:ssm:/golden/web:2
launch third resolve:ssm:/golden/web
check "it is the second version that runs" guest 'test "$(cat /srv/version)" = two && sha256sum -c /srv/sum'
check "the third guest ends" stop third
check "it is removed too" do_kami rm third

check "a dry run of a prune deletes nothing" do_kami image prune --name 'web-*' --keep 0
check "the third image is still there" lists image web-3
check "a prune spares what the parameter names" do_kami image prune --name 'web-*' --keep 0 --yes
check "the third image is gone" not lists image web-3
check "the second image is there" lists image web-2
check "the store is sound" do_kami store check
do_kami parameter delete /golden/web
do_kami image deregister web-2 --delete-snapshots
check "when all is deleted its space is back" test $(($(content_kib) - before)) -lt 4096
check "the store is sound to the end" kami store check
rm -rf "$work"
exit "$failed"
