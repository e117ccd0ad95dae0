#!/usr/bin/env bash
# Installs the Debian packages that Hikyaku needs, and checks for a Rust tool chain.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'END'
Usage: setup/install.sh [--test] [--fuzz]

Installs what building and the demo need on Debian and its relatives; says nothing if all is there.
Runs as root, or takes sudo.

  --test   also what setup/test.sh needs
  --fuzz   also what setup/fuzz.sh needs; the tools among it come by rustup and cargo
  --help   this text
END
}

# rustc needs a linker and the C library's start files; cargo needs certificates to fetch packages.
PACKAGES=(gcc libc6-dev ca-certificates)
# The linter for scripts; the mail programs of the scenarios; jq reads cargo's metadata and reports.
TEST_PACKAGES=(git jq shellcheck swaks postfix curl python3)
# libFuzzer is C++.
FUZZ_PACKAGES=(g++)
# The oldest Rust that builds the workspace: `rust-version` in Cargo.toml.
RUST_OLDEST=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")

main() {
    local test=no fuzz=no
    while [ $# -gt 0 ]; do
        case $1 in
        --test) test=yes ;;
        --fuzz) fuzz=yes ;;
        --help | -h)
            usage
            exit 0
            ;;
        *)
            usage >&2
            exit 2
            ;;
        esac
        shift
    done
    [ "$test" = no ] || PACKAGES+=("${TEST_PACKAGES[@]}")
    [ "$fuzz" = no ] || PACKAGES+=("${FUZZ_PACKAGES[@]}")
    install_packages
    check_rust "$test"
    [ "$fuzz" = no ] || install_fuzzer
}

install_packages() {
    local package missing=()
    if ! command -v dpkg-query >/dev/null; then
        die "this is not a Debian system; install the equivalents of: ${PACKAGES[*]}"
    fi
    for package in "${PACKAGES[@]}"; do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    as_root apt-get update -qq
    if [[ " ${missing[*]} " == *" postfix "* ]]; then
        # Without a main.cf of its own the system's Postfix neither starts nor listens. The
        # scenarios run a private one.
        say 'postfix postfix/main_mailer_type select No configuration' |
            as_root debconf-set-selections
    fi
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "run this as root: there is no sudo to run: $*"
    fi
}

check_rust() {
    local version
    if ! command -v cargo >/dev/null; then
        rust_help "there is no Rust tool chain"
    fi
    version=$(cargo --version | cut -d ' ' -f 2)
    if ! printf '%s\n%s\n' "$RUST_OLDEST" "$version" | sort -C -V; then
        rust_help "Rust $version is older than $RUST_OLDEST"
    fi
    if [ "$1" = yes ]; then
        cargo fmt --version >/dev/null 2>&1 || rust_help "rustfmt is missing (rustup component add rustfmt)"
        cargo clippy --version >/dev/null 2>&1 || rust_help "clippy is missing (rustup component add clippy)"
    fi
}

# Coverage instrumentation is in nightly compilers only.
install_fuzzer() {
    command -v rustup >/dev/null || rust_help "there is no rustup, which fetches a nightly tool chain"
    cargo +nightly --version >/dev/null 2>&1 ||
        rustup toolchain install nightly --profile minimal --no-self-update
    cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
}

rust_help() {
    warn "$1. Rust $RUST_OLDEST or later comes with rustup:
  Debian 13 or later:  apt install rustup && rustup default stable
  elsewhere:           https://rustup.rs"
    exit 1
}

main "$@"
