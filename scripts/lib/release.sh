# The steps of scripts/release that make an archive; its variables: top, target, version, date, host, work. Sourced by bash.
# shellcheck shell=bash disable=SC2154

archive_of() { echo "kami-$version-$1-linux"; }

# extras: the manual and the completions. Built as scripts/test builds the tests, so that it costs nothing there.
extras() {
    cargo build -q --workspace --locked --example extras >&2
    "$target/debug/examples/extras" "$work/extras" "$(date -u -d "@$date" +%F)"
}

# third_party: the licences of what is linked into the binary, as its authors ask for; a text that several have, once.
third_party() {
    local name number folder file digest
    local -A seen=()
    echo "The kami binary contains the GNU C library (LGPL-2.1-or-later) and these Rust crates, with the C libraries in them."
    cargo tree --locked -p kami-vmm -e normal,no-proc-macro --target x86_64-unknown-linux-gnu \
        --target aarch64-unknown-linux-gnu --prefix none --format '{p}' | grep -v -e ' (' -e '^$' | LC_ALL=C sort -u | while read -r name number; do
        folder=$(compgen -G "${CARGO_HOME:-$HOME/.cargo}/registry/src/*/$name-${number#v}" | head -n1)
        [ -n "$folder" ] || die "the source of $name $number is not there"
        printf '\n==== %s %s\n' "$name" "${number#v}"
        sed -n 's/^license = "\(.*\)"/Licence: \1/p' "$folder/Cargo.toml" | head -n1
        while read -r file; do
            digest=$(sha256sum <"$folder/$file")
            printf -- '-- %s%s\n' "$file" "${seen[$digest]:+: as ${seen[$digest]}}"
            [ -n "${seen[$digest]-}" ] || cat "$folder/$file"
            seen[$digest]=${seen[$digest]-"$name's $file"}
        done < <(cd "$folder" && find . -maxdepth 2 -type f ! -name '*.*GPL*' -printf '%P\n' |
            grep -iE '(^|/)(licen[cs]e|copying|copyright|notice)[^/]*$' | LC_ALL=C sort)
    done
}

# binary ARCHITECTURE: builds the static binary and sets kami to it.
binary() {
    say "building kami for $1"
    if [ "$1" = "$host" ]; then
        build_kami
    else
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
    cp "$work"/extras/man1/*.1 "$share/man/man1/"
    cp "$work/extras/completions/bash" "$share/bash-completion/completions/kami"
    cp "$work/extras/completions/fish" "$share/fish/vendor_completions.d/kami.fish"
    cp "$work/extras/completions/zsh" "$share/zsh/site-functions/_kami"
    cp README.md CHANGELOG.md LICENSE "$work/THIRD-PARTY" "$share/doc/kami/"
}

# pack FOLDER ARCHIVE: what is in FOLDER, the same bytes whoever packs it when.
pack() {
    (cd "$1" && tar --format=ustar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$date" \
        --mode=u+rwX,go+rX,go-w -cf - -- *) | gzip -9n >"$2"
}
