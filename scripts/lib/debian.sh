# Debian 12 packages for the rig and the image, on any host with apt: a private apt view under target/debian,
# so that neither the host's release nor its package state matters.
# shellcheck shell=bash disable=SC2154

suite=bookworm
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# debian_sources: the host's own sources of the suite, one a line; nothing where it is not that release
# (mmdebstrap then uses Debian's default mirror).
debian_sources() {
    apt-get indextargets --format "deb [signed-by=$keyring] \$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
        'Identifier: Packages' 'Origin: Debian' 2>/dev/null | grep -E " $suite(-updates|-security)? main\$" || true
}

# debian_view: makes the view, of amd64 and arm64 packages, when it is missing or older than a day, without network when it is not.
# arm64 never becomes an architecture of the host's own dpkg.
debian_view() {
    local architectures=amd64,arm64 sources=()
    view=$target/debian/apt
    [ "$(cat "$view.stamp" 2>/dev/null)" != "$architectures" ] || [ -n "$(find "$view.stamp" -mmin +1440)" ] || return 0
    need mmdebstrap
    [ -e "$keyring" ] || need debian-archive-keyring
    rm -rf "$view"
    mkdir -p "${view%/*}"
    mapfile -t sources < <(debian_sources)
    mmdebstrap --quiet --variant=custom --mode=chrootless --architectures="$architectures" --keyring="$keyring" \
        --skip=cleanup/apt,cleanup/apt/lists "$suite" "$view" "${sources[@]}" >&2 ||
        die "cannot read Debian's package lists" "is a Debian mirror reachable from here?"
    echo "$architectures" >"$view.stamp"
}

debian_apt() {
    local tool=$1
    shift
    "apt-$tool" -q -o Dir="$view" -o Dir::State::status="$view/var/lib/dpkg/status" -o APT::Sandbox::User= \
        -o APT::Architecture=amd64 -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 "$@"
}

# debian_kernel FLAVOUR SERIES [ARCHITECTURE]: the newest kernel package of the view, e.g. `cloud 6.12` or `generic 6.1 arm64`.
debian_kernel() {
    local infix=
    [ "$1" = generic ] || infix=$1-
    debian_apt cache pkgnames "linux-image-$2." |
        grep -E -- "^linux-image-${2//./\\.}\.[0-9]+(-[0-9]+)?(\+deb[0-9]+)?-$infix${3-amd64}\$" |
        sort -V | tail -n1 | grep . || die "Debian has no $1 kernel of the series $2 for ${3-amd64}"
}

# debian_unpack PACKAGE[:ARCHITECTURE][=VERSION] FOLDER: downloads the package and lays its files under FOLDER.
debian_unpack() {
    local packages=$target/debian/packages name=${1%%[:=]*} version='*' architecture=amd64
    [[ $1 != *=* ]] || version=${1#*=} version=${version//:/%3a}
    [[ ${1%%=*} != *:* ]] || architecture=${1%%=*} architecture=${architecture#*:}
    mkdir -p "$2" "$packages"
    (cd "$packages" && debian_apt get download "$name:$architecture${1#"${1%%=*}"}" >&2) || die "cannot download Debian's package $1"
    dpkg-deb -x "$(find "$packages" -name "${name}_${version}_$architecture.deb" -o -name "${name}_${version}_all.deb" | sort -V | tail -n1)" "$2"
}

# debian_unpack_all PACKAGE:ARCHITECTURE FOLDER: the package and all that it depends on.
debian_unpack_all() {
    local archives=$target/debian/packages/${1//:/-} package
    rm -rf "$archives"
    mkdir -p "$2" "$archives/partial"
    debian_apt get install -y --no-install-recommends --download-only -o Dir::Cache::archives="$archives" -o Debug::NoLocking=1 \
        "$1" >&2 || die "cannot download Debian's package $1 and its dependencies"
    for package in "$archives"/*.deb; do dpkg-deb -x "$package" "$2"; done
}
