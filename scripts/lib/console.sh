# Drives a guest's serial console as a person would. Plain POSIX sh: it also runs under busybox in the emulated host.
# shellcheck shell=sh disable=SC2034
#
# console_open LOG COMMAND [ARG]…   starts a command whose standard input is typed and whose output is the guest's console
# console_wait SECONDS TEXT         waits until the console showed TEXT (a basic regular expression)
# console_login SECONDS             waits for the login prompt, and logs in as root
# console_run COMMAND               types a shell command, waits for its end, and returns its exit status; sets console_said
# console_close SECONDS             waits for the end of what console_open started, and returns its exit status

console_count=0

console_open() {
    console_log=$1
    shift
    : >"$console_log"
    rm -f "$console_log.in" "$console_log.exit"
    mkfifo "$console_log.in"
    {
        "$@" <"$console_log.in" >>"$console_log" 2>&1 && echo 0 >"$console_log.exit" || echo $? >"$console_log.exit"
    } &
    exec 9>"$console_log.in"
}

console_wait() {
    console_until=$(($(date +%s) + $1))
    while ! grep -q -- "$2" "$console_log"; do
        if [ -e "$console_log.exit" ] && ! grep -q -- "$2" "$console_log"; then
            echo "the command ended with status $(cat "$console_log.exit") before the console showed: $2" >&2
            return 1
        fi
        if [ "$(date +%s)" -ge "$console_until" ]; then
            echo "the console did not show within $1 s: $2" >&2
            return 1
        fi
        sleep 0.2
    done
}

console_type() { printf '%s\n' "$1" >&9; }

console_login() {
    console_wait "$1" 'login: ' || return 1
    console_type root
    console_wait 120 'root@[a-z]*:~# ' || return 1
    # Else bash writes escape sequences around what it echoes.
    console_type "bind 'set enable-bracketed-paste off'"
}

# The marker is typed in two parts, so that the echo of what was typed is not taken for it.
console_run() {
    console_count=$((console_count + 1))
    console_type "$1; echo 'end''$console_count='\$?."
    console_wait 120 "^end$console_count=[0-9]*\." || return 1
    console_said=$(tr -d '\r' <"$console_log" | sed -n "/'end''$console_count='/,/^end$console_count=/p" | sed '1d;$d')
    return "$(sed -n "s/^end$console_count=\([0-9]*\).*/\1/p" "$console_log")"
}

console_close() {
    console_until=$(($(date +%s) + $1))
    while [ ! -s "$console_log.exit" ]; do
        if [ "$(date +%s)" -ge "$console_until" ]; then
            echo "what was started on the console did not end within $1 s" >&2
            return 1
        fi
        sleep 0.2
    done
    exec 9>&-
    rm -f "$console_log.in"
    return "$(cat "$console_log.exit")"
}
