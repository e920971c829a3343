# One run of the emulated host: the disk that carries the files in, and the machine itself.
# Sourced by scripts/rig, whose variables it uses:
# architecture, processor, gic, work, rig_dir, files, disks, vars, out, cpus, memory, limit.
# shellcheck shell=bash disable=SC2154

# rig_stage COMMAND [ARG]…: lays the files of this run and /rig/start out, as the emulated host's root disk.
rig_stage() {
    local root=$work/root item source place
    mkdir -p "$root"/{bin,dev,proc,sys,tmp,run,root,out,rig,etc}
    cp "$rig_dir/busybox" "$root/bin/busybox"
    chmod 1777 "$root/tmp"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    for item in "${files[@]}"; do
        source=${item%%:*}
        [ -e "$source" ] || die "no file $source to take along"
        place=$(realpath -s "$source")
        [ "$item" = "$source" ] || place=${item#*:}
        mkdir -p "$root${place%/*}"
        # Links spare a copy; they fail across file systems.
        cp -aL --link "$source" "$root$place" 2>/dev/null || cp -aL --sparse=auto "$source" "$root$place"
    done
    rig_start "$@" >"$root/rig/start"
    truncate -s 16G "$work/disk"
    mke2fs -q -F -t ext4 -O ^has_journal -E lazy_itable_init=1 -m 0 -d "$root" "$work/disk"
}

# rig_start COMMAND [ARG]…: prints what the emulated host's first process does on that disk.
rig_start() {
    local item letter=b
    cat <<'START'
export PATH=/bin HOME=/root USER=root
/bin/busybox --install -s /bin
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
ip link set lo up
for port in /sys/class/virtio-ports/*; do
    case $(cat "$port/name") in
        rig.status) exec 3>"/dev/${port##*/}" ;;
        rig.output) exec 4>"/dev/${port##*/}" ;;
    esac
done
while echo beat >&3; do sleep 5; done &
START
    [ -z "$out" ] || echo 'mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 out /out'
    for item in "${disks[@]}"; do
        [ "$item" = "${item%%:*}" ] || printf 'mkdir -p %q && mount -t ext4 -o noatime /dev/vd%s %q\n' "${item#*:}" "$letter" "${item#*:}"
        letter=$(tr a-y b-z <<<"$letter")
    done
    for item in "${vars[@]}"; do printf 'export %q\n' "$item"; done
    printf 'cd /root\n'
    printf '%q ' "$@"
    printf '</dev/null >&4 2>&1\necho exit=$? >&3\nsync\npoweroff -f\n'
}

# rig_machine: sets machine, the emulator's command, and console, what its kernel calls the serial port.
rig_machine() {
    machine=("qemu-system-$architecture" -accel "tcg,thread=multi")
    case $architecture in
        x86_64) machine+=(-M q35 -cpu "${processor:-max,+svm,+npt,-la57}") console=ttyS0 ;;
        # Not plain `max`: emulated pointer authentication by the architecture's own algorithm takes most of the time.
        aarch64) machine+=(-M "virt,virtualization=on,gic-version=${gic:-3}" -cpu "${processor:-neoverse-n1}") console=ttyAMA0 ;;
    esac
    machine+=(-smp "$cpus" -m "$memory")
}

# rig_boot: boots the host, passes its output on, and sets status, and reason when it was not the command that ended it.
rig_boot() {
    local machine console arguments=() item reader ended beat=$SECONDS size=0 started=$SECONDS
    reason=''
    : >"$work/status"
    [ -p "$work/output" ] || mkfifo "$work/output"
    for item in "${disks[@]}"; do
        arguments+=(-drive "file=${item%%:*},format=raw,if=virtio,snapshot=on,cache=unsafe")
    done
    [ -z "$out" ] || mkdir -p "$out"
    [ -z "$out" ] || arguments+=(-virtfs "local,path=$out,mount_tag=out,security_model=none")
    rig_machine
    "${machine[@]}" \
        -d cpu_reset -D "$work/resets" -nodefaults -display none -no-reboot -serial "file:$work/console" \
        -kernel "$rig_dir/kernel" -initrd "$rig_dir/initramfs" \
        -append "console=$console quiet loglevel=2 panic=-1 mitigations=off nokaslr audit=0 nowatchdog cryptomgr.notests" \
        -drive "file=$work/disk,format=raw,if=virtio,cache=unsafe" "${arguments[@]}" \
        -device virtio-rng-pci -device virtio-serial-pci \
        -chardev "file,id=status,path=$work/status" -device virtserialport,chardev=status,name=rig.status \
        -chardev "file,id=output,path=$work/output" -device virtserialport,chardev=output,name=rig.output </dev/null &
    qemu=$!
    # Not by qemu's stdio: that takes the end of its input for the end of the port.
    tee "$work/said" <"$work/output" &
    reader=$!
    # The heartbeat is every 5 s; the limit leaves room for a machine that is busy with other work.
    while kill -0 "$qemu" 2>/dev/null; do
        if [ "$(stat -c %s "$work/status")" != "$size" ]; then
            size=$(stat -c %s "$work/status")
            beat=$SECONDS
        fi
        if [ $((SECONDS - beat)) -gt 45 ]; then reason=hung; fi
        if [ $((SECONDS - started)) -ge "$limit" ]; then reason=time-limit; fi
        [ -z "$reason" ] || break
        sleep 0.2
    done
    kill "$qemu" 2>/dev/null || true
    wait "$qemu" 2>/dev/null && ended=0 || ended=$?
    wait "$reader"
    status=$(sed -n 's/^exit=//p' "$work/status")
    if [ -n "$status" ]; then
        reason=''
    elif [ "$reason" = time-limit ]; then
        status=124
    else
        status=125 reason=${reason:-crashed-$ended}
    fi
}
