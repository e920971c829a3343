#!/bin/sh
# Boots arm64 kernels as distributions pack them: images that are named by the format of their kernel, and whose initial ramdisk says
# what it runs on and powers off. Run by scripts/test in the emulated Arm host. Plain POSIX sh.
# Wants KAMI_HOME, and kami in PATH. Prints `ok: …` or `FAILED: …` for each check, no two alike.
set -u
failed=0
for format in Image.gz vmlinuz.efi; do
    said=$(kami run "$format" --rm --memory 256M --timeout 2m --append quiet 2>&1)
    status=$?
    if [ "$status" = 0 ] && printf '%s\n' "$said" | grep -q 'its kernel is aarch64'; then
        echo "ok: formats: the kernel in $format boots, and powers off with status 0"
    else
        echo "FAILED: formats: the kernel in $format boots, and powers off with status 0; it ended with $status: $said"
        failed=1
    fi
done
exit "$failed"
