# Sourced by scripts/test and scripts/try: what this machine must have, installed where that is possible.
# shellcheck shell=bash

say() { printf '== %s\n' "$*" >&2; }

die() { # MESSAGE [HINT]
    printf 'scripts/%s: %s\n' "${0##*/}" "$1" >&2
    [ -z "${2-}" ] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# Puts cargo into PATH; sudo hides the toolchain of the user who called it.
need_rust() {
    local home
    for home in "$HOME" "$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)"; do
        command -v cargo >/dev/null && break
        [ -x "$home/.cargo/bin/cargo" ] || continue
        export PATH="$home/.cargo/bin:$PATH" RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}"
    done
    command -v cargo >/dev/null || die "cargo is not in PATH" \
        "install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or later, e.g. apt-get install rustup && rustup default stable"
}

# Installs Debian packages that are missing; asks the network only then.
need_packages() {
    local package missing=()
    command -v dpkg-query >/dev/null || { say "no Debian: make sure of $*"; return; }
    for package; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    is_root || die "packages are missing: ${missing[*]}" "sudo apt-get install --no-install-recommends ${missing[*]}"
    say "install ${missing[*]}"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "${missing[@]}" >/dev/null
}

# True if the machine has an ability; otherwise it must be declared in U7S_WITHOUT, or this ends the run.
has() { # ABILITY REMEDY COMMAND...
    local ability=$1 remedy=$2
    shift 2
    case ",${U7S_WITHOUT-}," in *",$ability,"*) say "left out, U7S_WITHOUT names it: $ability"; return 1 ;; esac
    "$@" >/dev/null 2>&1 || die "this machine lacks: $ability" "$remedy; or declare it: U7S_WITHOUT=$ability"
}

# What nested nodes and namespace tests need.
has_node_abilities() {
    has root "run it with sudo" is_root &&
        has cgroup2 "mount a cgroup2 file system" grep -q ' - cgroup2 ' /proc/self/mountinfo &&
        has tun "modprobe tun" test -c /dev/net/tun &&
        has userns "sysctl user.max_user_namespaces=65536" unshare --user true
}
