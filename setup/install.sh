#!/usr/bin/env bash
# Installs the Debian packages that Hikyaku needs, and checks for a Rust tool chain.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'END'
Usage: setup/install.sh [--test] [--compare] [--fuzz]

Installs what building and the demo need on Debian and its relatives; says nothing if all is there.
Runs as root, or takes sudo. What only the bypass needs may be missing where neither is to be had.

  --test     also what setup/test.sh needs; what no package manager installs goes to
             $XDG_CACHE_HOME/hikyaku/programs (default: ~/.cache)
  --compare  also what setup/compare.sh compares with; servers that would run as services go there too
  --fuzz     also what setup/fuzz.sh needs; the tools among it come by rustup and cargo
  --help     this text
END
}

# rustc needs a linker and the C library's start files; cargo needs certificates to fetch packages.
PACKAGES=(gcc libc6-dev ca-certificates)
# AF_XDP: libxdp and libbpf are built from source, with programs for the kernel among it.
BYPASS_PACKAGES=(clang llvm make m4 pkg-config libelf-dev zlib1g-dev libpcap-dev)
# Interfaces and their queues, and the lab.
BYPASS_PACKAGES+=(iproute2 ethtool nftables)
# The linter for scripts; the mail programs of the scenarios; jq reads cargo's metadata and reports.
TEST_PACKAGES=(git jq shellcheck swaks postfix curl python3 python3-venv iputils-ping strace valgrind)
# Mail servers that exclude each other as packages, and what would run as a service of this machine, are
# unpacked and not installed: to $PROGRAMS.
UNPACKED=(exim:exim4-daemon-light opensmtpd:opensmtpd etcd:etcd-server)
# Those of setup/compare.sh: NAME:PACKAGE, and packages that go to the same place behind a plus.
COMPARED=(memcached:memcached redis:redis-server+redis-tools opensmtpd:opensmtpd)
COMPARE_PACKAGES=(postfix jq linux-perf)
# From PyPI and npm, with what they need, for $PROGRAMS.
PYTHON_PACKAGES=(aiosmtpd==1.4.6 atpublic==7.0.0 attrs==25.4.0)
NODE_PACKAGES=(nodemailer@8.0.9)
# libFuzzer is C++.
FUZZ_PACKAGES=(g++)
# The oldest Rust that builds the workspace: `rust-version` in Cargo.toml.
RUST_OLDEST=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")

# What is wanted beside what building and the demo need.
TEST=no
COMPARE=no
FUZZ=no

main() {
    read_options "--test TEST =yes" "--compare COMPARE =yes" "--fuzz FUZZ =yes" -- "$@"
    [ "$FUZZ" = no ] || PACKAGES+=("${FUZZ_PACKAGES[@]}")
    [ "$COMPARE" = no ] || PACKAGES+=("${COMPARE_PACKAGES[@]}")
    if [ "$TEST" = yes ]; then
        PACKAGES+=("${TEST_PACKAGES[@]}")
        # Node.js may come from elsewhere.
        command -v npm >/dev/null || PACKAGES+=(nodejs npm)
    fi
    install_packages
    [ "$COMPARE" = no ] || unpack_all "${COMPARED[@]}"
    [ "$TEST" = no ] || install_programs
    check_rust "$TEST"
    [ "$FUZZ" = no ] || install_fuzzer
}

install_packages() {
    local package missing=() optional=()
    if ! command -v dpkg-query >/dev/null; then
        die "this is not a Debian system; install the equivalents of: ${PACKAGES[*]}"
    fi
    for package in "${PACKAGES[@]}"; do
        is_installed "$package" || missing+=("$package")
    done
    for package in "${BYPASS_PACKAGES[@]}"; do
        is_installed "$package" || optional+=("$package")
    done
    if [ ${#optional[@]} -gt 0 ] && ! can_be_root; then
        warn "without ${optional[*]} there is no bypass, and no lab to try it in; only root can install them"
        optional=()
    fi
    missing+=("${optional[@]}")
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

# Programs of the scenarios that the system's package manager does not install, to $PROGRAMS.
install_programs() {
    unpack_all "${UNPACKED[@]}"
    if [ ! -d "$PROGRAMS/python" ]; then
        say "installing ${PYTHON_PACKAGES[*]}"
        # The system's Python is the one that python3-venv is for.
        /usr/bin/python3 -m venv "$PROGRAMS/python.new"
        "$PROGRAMS/python.new/bin/pip" install --quiet --disable-pip-version-check --no-deps \
            "${PYTHON_PACKAGES[@]}"
        mv "$PROGRAMS/python.new" "$PROGRAMS/python"
    fi
    if [ ! -d "$PROGRAMS/node" ]; then
        say "installing ${NODE_PACKAGES[*]}"
        npm install --silent --no-save --ignore-scripts --no-audit --no-fund \
            --prefix "$PROGRAMS/node.new" "${NODE_PACKAGES[@]}"
        mv "$PROGRAMS/node.new" "$PROGRAMS/node"
    fi
}

# unpack_all NAME:PACKAGE[+PACKAGE…]…: those that are not there yet.
unpack_all() {
    local entry packages
    mkdir -p "$PROGRAMS"
    for entry; do
        IFS=+ read -ra packages <<<"${entry#*:}"
        [ -d "$PROGRAMS/${entry%%:*}" ] || unpack "${entry%%:*}" "${packages[@]}"
    done
}

# unpack NAME PACKAGE…: what is in Debian packages, to $PROGRAMS/NAME, and the libraries that they need to
# where all libraries are.
unpack() {
    local name=$1 package libraries
    shift
    say "unpacking $*"
    as_root apt-get update -qq
    rm -rf "$PROGRAMS/$name.new"
    mkdir "$PROGRAMS/$name.new"
    for package; do
        mapfile -t libraries < <(apt-cache depends "$package" | sed -n 's/^ *Depends: \(lib[^ ]*\)$/\1/p')
        [ ${#libraries[@]} -eq 0 ] || as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends --no-upgrade "${libraries[@]}" >/dev/null
        (cd "$PROGRAMS/$name.new" && apt-get download -qq -o APT::Sandbox::User=root "$package" >/dev/null)
        dpkg -x "$PROGRAMS/$name.new"/*.deb "$PROGRAMS/$name.new"
        rm "$PROGRAMS/$name.new"/*.deb
    done
    mv "$PROGRAMS/$name.new" "$PROGRAMS/$name"
}

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

can_be_root() { [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; }

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
