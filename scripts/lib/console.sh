# Drives a guest's serial console as a person would. Plain POSIX sh: it also runs under busybox in the emulated host.
# shellcheck shell=sh disable=SC2034
#
# console_open LOG COMMAND [ARG]…   starts a command whose standard input is typed and whose output is the guest's console,
#                                   shown on standard output if console_show is yes
# console_wait SECONDS TEXT         waits until the console showed TEXT (a basic regular expression)
# console_forget                    makes console_wait look at nothing that was shown until now
# console_login SECONDS             waits for the login prompt, and logs in as root
# console_run COMMAND               types a shell command, waits for its end, and returns its exit status; sets console_said
# console_close SECONDS             waits for the end of what console_open started, and returns its exit status
#
# Wants a guest whose shell does not ask for bracketed pastes (bash: enable-bracketed-paste off in /etc/inputrc).

console_count=0
console_from=1
console_show=no

console_open() {
    console_log=$1
    console_from=1
    shift
    : >"$console_log"
    rm -f "$console_log".*
    mkfifo "$console_log.in" "$console_log.out"
    {
        "$@" <"$console_log.in" >"$console_log.out" 2>&1 && echo 0 >"$console_log.exit" || echo $? >"$console_log.exit"
    } &
    if [ "$console_show" = yes ]; then
        tee "$console_log" <"$console_log.out" &
    else
        cat <"$console_log.out" >"$console_log" &
    fi
    console_reader=$!
    exec 9>"$console_log.in"
}

console_shows() { tail -c "+$console_from" "$console_log" | grep -q -- "$1"; }

console_wait() {
    console_until=$(($(date +%s) + $1))
    while ! console_shows "$2"; do
        if [ -e "$console_log.exit" ] && ! console_shows "$2"; then
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

console_forget() { console_from=$(($(wc -c <"$console_log") + 1)); }

console_type() { printf '%s\n' "$1" >&9; }

console_login() {
    console_wait "$1" 'login: ' || return 1
    console_type root
    console_wait 300 'root@[a-z]*:~# ' || return 1
}

# The marker is typed in two parts, so that the echo of what was typed is not taken for it.
console_run() {
    console_count=$((console_count + 1))
    console_type "( $1 ); echo 'end''$console_count='\$?."
    console_wait 300 "^end$console_count=[0-9]*\." || return 1
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
    wait "$console_reader"
    return "$(cat "$console_log.exit")"
}
