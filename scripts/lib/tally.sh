# Counts what passed, failed and was skipped. Sourced by bash.
# shellcheck shell=bash

passed=0 failed=0 skipped=0

# tally NAME COMMAND [ARG]…: runs a command as one test.
tally() {
    local name=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "$name: ok"
    else
        failed=$((failed + 1))
        echo "$name: FAILED"
    fi
}

tally_skip() {
    skipped=$((skipped + 1))
    echo "$1: skipped: $2"
}

# tally_more NAME FILE: adds up the closing lines in a log: cargo's, and those that tally_end wrote. A log without any is
# a failure, for whatever should have written one did not run.
tally_more() {
    local sums
    sums=$(sed -nE 's/^(test result: [a-zA-Z]+\.|[a-z]+:) ([0-9]+) passed[;,] ([0-9]+) failed([;,] ([0-9]+) (ignored|skipped).*)?$/\2 \3 \5/p' "$2" |
        awk '{ p += $1; f += $2; s += $3 } END { if (NR) print p, f, s }')
    if [ -z "$sums" ]; then
        failed=$((failed + 1))
        echo "$1: FAILED: it ended without a result"
        return
    fi
    read -r p f s <<<"$sums"
    # What another test runs in a process of its own, or the suite by itself, is ignored by name and counts there.
    s=$((s - $(grep -cE ' \.\.\. ignored, (the child of|run apart)' "$2" || :)))
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

# tally_end NAME: the closing line; fails if a test failed.
tally_end() {
    echo "${1:+$1: }$passed passed, $failed failed, $skipped skipped"
    [ "$failed" = 0 ]
}
