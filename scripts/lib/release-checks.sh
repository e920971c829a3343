# What scripts/release checks of an archive; its variables: top, version, host, work, out. Sourced by bash after tally.sh.
# shellcheck shell=bash disable=SC2154

# The limit of a stripped binary: 8 MiB.
binary_limit=$((8 << 20))

# ask ARCHITECTURE BINARY FOLDER: what the binary says of itself, in files of the folder.
ask() {
    # shellcheck disable=SC2016 # expands there
    local script='out=$1 && shift && "$@" --version >"$out/version" && "$@" --help >"$out/help" &&
        for shell in bash fish zsh; do "$@" completion $shell >"$out/$shell" || exit; done' run=()
    mkdir -p "$3"
    if [ "$1" != "$host" ] && ! command -v "qemu-$1-static" >/dev/null; then
        "$top/scripts/rig" --arch "$1" --cpus 1 --out "$3" --file "$2:/bin/kami" sh -c "$script" sh /out kami
        return
    fi
    [ "$1" = "$host" ] || run=("qemu-$1-static")
    sh -c "$script" sh "$3" "${run[@]}" "$2"
}

# verify ARCHITECTURE ARCHIVE: unpacks it and checks what came out.
verify() {
    local folder=$work/verify-$1
    mkdir "$folder"
    tar -xzf "$2" -C "$folder"
    unpacked=$folder/$(archive_of "$1")
    binary=$unpacked/bin/kami
    said=$folder/said
    say "$1: binary $(stat -c %s "$binary") bytes, archive $(stat -c %s "$2") bytes"
    tally "$1: size" [ "$(stat -c %s "$binary")" -lt "$binary_limit" ]
    tally "$1: static, stripped" is_static "$1"
    tally "$1: no path of this machine" is_anonymous
    tally "$1: runs" ask "$1" "$binary" "$said"
    tally "$1: version" grep -qx "kami $version" "$said/version"
    tally "$1: completions" are_completions
    tally "$1: manual" is_manual
    tally "$1: documents" are_documents
}

# An ELF file for that machine that asks for no interpreter and no library, and has no symbols.
is_static() {
    local machine=AArch64
    [ "$1" = aarch64 ] || machine=X86-64
    readelf -hldSW "$binary" >"$work/elf" && grep -q "Machine:.*$machine" "$work/elf" &&
        ! grep -E 'INTERP|\(NEEDED\)|\.symtab|\.debug' "$work/elf"
}

is_anonymous() { ! grep -aoE "($top|${CARGO_HOME:-$HOME/.cargo})/[^[:cntrl:]]{0,80}" "$binary" | sort -u; }

# They are what the binary says, and bash can read its own.
are_completions() {
    cmp "$said/bash" "$unpacked/share/bash-completion/completions/kami" &&
        cmp "$said/fish" "$unpacked/share/fish/vendor_completions.d/kami.fish" &&
        cmp "$said/zsh" "$unpacked/share/zsh/site-functions/_kami" &&
        bash -c '. "$1" && complete -p kami >/dev/null' bash "$said/bash"
}

are_documents() {
    local file
    for file in README.md CHANGELOG.md LICENSE; do cmp "$file" "$unpacked/share/doc/kami/$file" || return; done
}

are_checksums() { (cd "$out" && sha256sum --quiet -c SHA256SUMS); }

# Every command that the binary lists has a page, and groff has nothing to say about any.
is_manual() {
    local pages=$unpacked/share/man/man1 name names
    # Under any heading but the last.
    names=$(awk '/^[A-Z][a-z ]*:$/ { on = $0 != "Options:" } on && /^  [a-z]/ { print $1 }' "$said/help")
    [ -n "$names" ] || return
    while read -r name; do
        [ -s "$pages/kami-$name.1" ] || { echo "no page about kami $name" && return 1; }
    done <<<"$names"
    [ -s "$pages/kami.1" ] && groff -man -Tascii -z -ww "$pages"/*.1 2>&1 | awk '{ print } END { exit NR > 0 }'
}
