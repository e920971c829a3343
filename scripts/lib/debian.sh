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

# debian_view: makes the view when it is missing or older than a day, without network when it is not.
debian_view() {
    view=$target/debian/apt
    if [ -e "$view.stamp" ] && [ -z "$(find "$view.stamp" -mmin +1440)" ]; then return 0; fi
    need mmdebstrap
    [ -e "$keyring" ] || need debian-archive-keyring
    rm -rf "$view"
    mkdir -p "${view%/*}"
    local sources=()
    mapfile -t sources < <(debian_sources)
    mmdebstrap --quiet --variant=custom --mode=chrootless --keyring="$keyring" \
        --skip=cleanup/apt,cleanup/apt/lists "$suite" "$view" "${sources[@]}" >&2 ||
        die "cannot read Debian's package lists" "is a Debian mirror reachable from here?"
    touch "$view.stamp"
}

debian_apt() {
    local tool=$1
    shift
    "apt-$tool" -q -o Dir="$view" -o Dir::State::status="$view/var/lib/dpkg/status" -o APT::Sandbox::User= "$@"
}

# debian_kernel FLAVOUR SERIES: the newest kernel package of the view, e.g. `cloud 6.12` or `generic 6.1`.
debian_kernel() {
    local infix=
    [ "$1" = generic ] || infix=$1-
    debian_apt cache pkgnames "linux-image-$2." | grep -E -- "^linux-image-${2//./\\.}\.[0-9]+(-[0-9]+)?(\+deb[0-9]+)?-${infix}amd64\$" |
        sort -V | tail -n1 | grep . || die "Debian has no $1 kernel of the series $2"
}

# debian_unpack PACKAGE FOLDER: downloads the package and lays its files under FOLDER.
debian_unpack() {
    mkdir -p "$2" "$target/debian/packages"
    (cd "$target/debian/packages" && debian_apt get download "$1" >&2) || die "cannot download Debian's package $1"
    dpkg-deb -x "$(find "$target/debian/packages" -name "${1}_*.deb" | sort -V | tail -n1)" "$2"
}
