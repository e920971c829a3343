# The suite of kernel formats: Debian's arm64 kernel packed as other distributions ship theirs, booted in an emulated Arm host.
# Sourced by bash after aarch64-suites.sh, whose assets it takes; uses the variables of scripts/test.
# shellcheck shell=bash disable=SC2154

# le32 NUMBER: prints it as four bytes.
le32() {
    local shift
    # shellcheck disable=SC2059 # the format is the byte
    for shift in 0 8 16 24; do printf "\\x$(printf %02x $(($1 >> shift & 255)))"; done
}

# zboot IMAGE: prints the EFI zboot program that Linux's Makefile.zboot makes of it with zstd, but for its code: the header of
# zboot-header.S in 4 KiB, then the kernel with its bss, compressed, then the unpacked size.
zboot() {
    local bytes packed
    bytes=$(od -An -tu4 -j16 -N4 "$1" | tr -d ' ')
    packed=$(mktemp)
    { cat "$1" && head -c $((bytes - $(stat -c %s "$1"))) /dev/zero; } | zstd -q >"$packed"
    {
        printf 'MZ\0\0zimg' && le32 4096 && le32 "$(stat -c %s "$packed")" && printf '\0\0\0\0\0\0\0\0zstd22'
        head -c 26 /dev/zero && le32 $((0x818223cd)) && le32 64 && printf 'PE\0\0\x64\xaa' && head -c 4026 /dev/zero
    }
    cat "$packed" && le32 "$bytes"
    rm "$packed"
}

# formats_home: sets formats_home to a KAMI_HOME with an image for each format, named by it.
formats_home() {
    local out=$target/formats image=$target/images/debian-12-arm64/vmlinuz-6.1 format kernel ramdisk id=0
    formats_home=$out/home
    rm -rf "$out"
    mkdir -p "$formats_home" "$out/root/bin" "$out/root/dev"
    cp "$target/rig/aarch64/busybox" "$out/root/bin/"
    cat >"$out/root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
echo "its kernel is $(/bin/busybox uname -m)" >/dev/console
exec /bin/busybox poweroff -f
INIT
    chmod +x "$out/root/init"
    (cd "$out/root" && find . | cpio -o -H newc -R 0:0 --quiet | gzip -1) >"$out/initrd"
    gzip -cn "$image" >"$out/Image.gz"
    zboot "$image" >"$out/vmlinuz.efi"
    truncate -s 1M "$out/disk.raw"
    export KAMI_HOME=$formats_home
    ramdisk=$("$kami" kernel import "$out/initrd" | grep -o 'ari-[0-9a-f]*')
    for format in Image.gz vmlinuz.efi; do
        kernel=$("$kami" kernel import "$out/$format" | grep -o 'aki-[0-9a-f]*')
        id=$((id + 1))
        debian_manifest "$format" arm64 "ami-0deb1a000000f000$id" "$kernel" "$ramdisk" snap-0deb1a000000f0000 >"$out/image.json"
        set -- "$out/image.json"
        [ "$id" != 1 ] || set -- "$@" --snapshot "snap-0deb1a000000f0000=$out/disk.raw"
        "$kami" image register "$@" >&2
    done
}

# rig_formats: the launches of tests/rig/formats.sh.
rig_formats() {
    local command=$top/tests/rig/formats.sh
    (formats_home)
    {
        "$top/scripts/rig" --arch aarch64 --cpus 1 --timeout 300 --env KAMI_HOME=/home --file "$target/formats/home:/home" \
            --file "$aarch64_kami:/bin/kami" --file "$command" sh "$command" 2>&1 || echo "FAILED: formats: ended with status $?"
    } | tee "$logs/formats.checks"
    # A second try of the emulated host repeats lines.
    awk '/^ok: / && !seen[$0]++ { ok++ } /^FAILED: / { failed++ }
        END { printf "launches: %d passed, %d failed\n", ok, failed; exit failed > 0 }' "$logs/formats.checks"
}
