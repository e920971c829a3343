# The steps of scripts/release, whose variables they use: top, target, version, date, host, work. Sourced by bash.
# shellcheck shell=bash disable=SC2154

# The limit of a stripped binary: 8 MiB.
binary_limit=$((8 << 20))

archive_of() { echo "kami-$version-$1-linux"; }

# manual FOLDER: the manual's pages. Built as scripts/test builds the tests, so that it costs nothing there.
manual() {
    cargo build -q --workspace --locked --example man >&2
    "$target/debug/examples/man" "$1" "$(date -u -d "@$date" +%F)"
}

# third_party: the licences of what is linked into the binary, as its authors ask for; a text that several have, once.
third_party() {
    local name number folder file digest
    local -A seen=()
    echo "The kami binary contains the GNU C library (LGPL-2.1-or-later) and these Rust crates, with the C libraries in them."
    cargo tree --locked -p kami-vmm -e normal,no-proc-macro --target x86_64-unknown-linux-gnu \
        --target aarch64-unknown-linux-gnu --prefix none --format '{p}' | grep -v -e ' (' -e '^$' | sort -u | while read -r name number; do
        folder=$(compgen -G "${CARGO_HOME:-$HOME/.cargo}/registry/src/*/$name-${number#v}" | head -n1)
        [ -n "$folder" ] || die "the source of $name $number is not there"
        printf '\n==== %s %s\n' "$name" "${number#v}"
        sed -n 's/^license = "\(.*\)"/Licence: \1/p' "$folder/Cargo.toml" | head -n1
        while read -r file; do
            digest=$(sha256sum <"$folder/$file")
            printf -- '-- %s%s\n' "$file" "${seen[$digest]:+: as ${seen[$digest]}}"
            [ -n "${seen[$digest]-}" ] || cat "$folder/$file"
            seen[$digest]=${seen[$digest]-"$name's $file"}
        done < <(cd "$folder" && find . -maxdepth 2 -type f -iregex '.*/\(licen[cs]e\|copying\|copyright\|notice\)[^/]*' ! -name '*.?GPL*' ! -name '*.GPL*' -printf '%P\n' | sort)
    done
}

# binary ARCHITECTURE: builds the static binary and sets kami to it, and run to what runs it here.
binary() {
    say "building kami for $1"
    run=()
    if [ "$1" = "$host" ]; then
        build_kami
    else
        need "qemu-$1-static=qemu-user-static"
        run=("qemu-$1-static")
        "$top/scripts/cross" "$1"
        kami=$target/$1-unknown-linux-gnu/release/kami
    fi
}

# stage ARCHITECTURE FOLDER: lays out the archive's one folder in FOLDER.
stage() {
    local share strip=strip file
    share=$2/$(archive_of "$1")/share
    [ "$1" = "$host" ] || strip=$1-linux-gnu-strip
    mkdir -p "$share/../bin" "$share"/{man/man1,bash-completion/completions,fish/vendor_completions.d,zsh/site-functions,doc/kami}
    "$strip" -s -o "$share/../bin/kami" "$kami"
    cp "$work"/man/*.1 "$share/man/man1/"
    "${run[@]}" "$kami" completion bash >"$share/bash-completion/completions/kami"
    "${run[@]}" "$kami" completion fish >"$share/fish/vendor_completions.d/kami.fish"
    "${run[@]}" "$kami" completion zsh >"$share/zsh/site-functions/_kami"
    cp README.md CHANGELOG.md LICENSE "$work/THIRD-PARTY" "$share/doc/kami/"
}

# pack FOLDER ARCHIVE: what is in FOLDER, the same bytes whoever packs it when.
pack() {
    (cd "$1" && tar --format=ustar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$date" \
        --mode=u+rwX,go+rX,go-w -cf - -- *) | gzip -9n >"$2"
}

# verify ARCHITECTURE ARCHIVE: unpacks it and checks what came out.
verify() {
    local folder=$work/verify-$1
    mkdir "$folder"
    tar -xzf "$2" -C "$folder"
    unpacked=$folder/$(archive_of "$1")
    binary=$unpacked/bin/kami
    run=()
    [ "$1" = "$host" ] || run=("qemu-$1-static")
    say "$1: binary $(stat -c %s "$binary") bytes, archive $(stat -c %s "$2") bytes"
    tally "$1: size" [ "$(stat -c %s "$binary")" -lt "$binary_limit" ]
    tally "$1: static, stripped" is_static "$1"
    tally "$1: version" [ "$("${run[@]}" "$binary" --version)" = "kami $version" ]
    tally "$1: no path of this machine" is_anonymous
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
    cmp <("${run[@]}" "$binary" completion fish) "$unpacked/share/fish/vendor_completions.d/kami.fish" &&
        cmp <("${run[@]}" "$binary" completion zsh) "$unpacked/share/zsh/site-functions/_kami" &&
        bash -c '. "$1" && complete -p kami >/dev/null' bash "$unpacked/share/bash-completion/completions/kami"
}

are_documents() {
    local file
    for file in README.md CHANGELOG.md LICENSE; do cmp "$file" "$unpacked/share/doc/kami/$file" || return; done
}

are_checksums() { (cd "$out" && sha256sum --quiet -c SHA256SUMS); }

# Every command that the binary lists has a page, and groff has nothing to say about any.
is_manual() {
    local pages=$unpacked/share/man/man1 name
    for name in $("${run[@]}" "$binary" --help | awk '/^Commands:/ { on = 1; next } !NF { on = 0 } on { print $1 }'); do
        [ -s "$pages/kami-$name.1" ] || { echo "no page about kami $name" && return 1; }
    done
    [ -s "$pages/kami.1" ] && groff -man -Tascii -z -ww "$pages"/*.1 2>&1 | awk '{ print } END { exit NR > 0 }'
}
