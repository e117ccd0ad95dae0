#!/usr/bin/env bash
# The rules of the tree that no compiler checks, each as a function that prints what breaks it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'END'
Usage: setup/checks.sh [RULE…]

Checks the rules of the tree; without arguments all of them:

  direction   crates depend on each other only as docs/architecture.md allows
  no-std      gateway/smtp and kvs/proto are no_std
  unsafe      unsafe code only where AF_XDP is called (dataplane), in tcpstack/src/kernel and the KVS arena
  paths       no file names a path of somebody's machine
  pipes       no script leaves a pipe before its end (`| has`, `| sed -n 1p` read all)
  stubs       nothing is left for later
  proofs      each line of the checklist in docs/smtp.md names tests that exist
  no-c        cargo build --no-default-features compiles no C
  self        each of these rules, on input that breaks it, fails
END
}

# Which of our packages may depend on which, in any way (normal, build or dev).
ALLOWED="
hikyaku-dataplane:
hikyaku-tcpstack: hikyaku-dataplane hikyaku-fuzzing
hikyaku-kvs-proto: hikyaku-fuzzing
hikyaku-smtp: hikyaku-fuzzing
hikyaku-config:
hikyaku-fuzzing:
hikyaku-kvs: hikyaku-kvs-proto hikyaku-tcpstack hikyaku-config hikyaku-fuzzing
hikyaku-gateway: hikyaku-smtp hikyaku-kvs-proto hikyaku-tcpstack hikyaku-config hikyaku-fuzzing
hikyaku-loadgen: hikyaku-kvs-proto hikyaku-tcpstack
hikyaku-costs: hikyaku-tcpstack hikyaku-kvs-proto hikyaku-smtp hikyaku-kvs hikyaku-gateway
hikyaku-sim: hikyaku-dataplane hikyaku-tcpstack hikyaku-kvs-proto hikyaku-smtp hikyaku-config hikyaku-kvs hikyaku-gateway hikyaku-loadgen
"
UNSAFE_ALLOWED='^(dataplane/src/xdp/(bpf|rings|sys)\.rs|dataplane/tests/xdp/|tcpstack/src/kernel/|kvs/src/arena)'
# Crates that others use in their build scripts to compile C or to look for it.
C_BUILDERS='^(cc|cmake|bindgen|clang-sys|pkg-config|vcpkg|autotools|nasm-rs) '

main() {
    local rule rules=(direction no-std unsafe paths pipes stubs proofs no-c self)
    case ${1:-} in
    --help | -h)
        usage
        exit 0
        ;;
    esac
    [ $# -eq 0 ] || rules=("$@")
    begin
    cd "$ROOT"
    for rule in "${rules[@]}"; do
        case $rule in
        direction) cargo metadata --format-version 1 --no-deps | direction ;;
        no-std) no_std gateway/smtp/src && no_std kvs/proto/src ;;
        unsafe) rust_files | grep -vE "$UNSAFE_ALLOWED" | unsafe_lines ;;
        paths) all_files | machine_paths ;;
        pipes) scripts | early_leavers ;;
        stubs) rust_files | stubs ;;
        proofs) proofs <docs/smtp.md ;;
        no-c) no_c ;;
        self) self ;;
        *)
            usage >&2
            exit 2
            ;;
        esac || die "the rule '$rule' is broken"
    done
}

all_files() { git ls-files --cached --others --exclude-standard | existing; }
rust_files() { git ls-files --cached --others --exclude-standard '*.rs' | existing; }
scripts() { git ls-files --cached --others --exclude-standard '*.sh' .ci/run | existing; }
existing() { while read -r file; do [ ! -f "$file" ] || say "$file"; done; }

# Reads cargo's metadata; prints each dependency that is not allowed, and each unknown package.
direction() {
    jq -r '.packages[] | .name as $from
        | "\($from) \($from)", (.dependencies[] | select(.path) | "\($from) \(.name)")' |
        sort -u | {
        local from to broken=0
        while read -r from to; do
            if ! grep -q "^$from:" <<<"$ALLOWED"; then
                say "$from: setup/checks.sh does not say what it may depend on"
                broken=1
            elif [ "$from" != "$to" ] && ! grep -qE "^$from:.* $to( |\$)" <<<"$ALLOWED"; then
                say "$from must not depend on $to"
                broken=1
            fi
        done
        return "$broken"
    }
}

# The compiler itself refuses std in a crate that says no_std, unless that crate asks for it again.
no_std() {
    local file broken=0
    if ! grep -qx '#!\[no_std\]' "$1/lib.rs"; then
        say "$1/lib.rs does not say #![no_std]"
        broken=1
    fi
    while read -r file; do
        awk -v file="$file" '
            /extern crate std/ && before !~ /cfg\(test\)/ { print file ":" FNR ": " $0; found = 1 }
            { before = $0 }
            END { exit found }' "$file" || broken=1
    done < <(find "$1" -name '*.rs')
    return "$broken"
}

# Reads names of files; prints lines with unsafe code. Comments do not count.
unsafe_lines() {
    local file broken=0
    while read -r file; do
        if sed 's|//.*||' "$file" | grep -nw unsafe | sed "s|^|$file:|" | grep .; then broken=1; fi
    done
    return "$broken"
}

# lines_with PATTERN: reads names of files; prints their lines that match, and fails if there are any.
lines_with() {
    local file broken=0
    while read -r file; do
        if grep -InHE "$1" "$file"; then broken=1; fi
    done
    return "$broken"
}

machine_paths() { lines_with '/(home|Users|root|work)/'; }

# Under pipefail a program fails whose reader has gone, now and then: when it was not quick enough.
early_leavers() { lines_with '(^|[^|])\| *(head\b|grep (-[a-zA-Z]* )*-[a-zA-Z]*q)'; }

stubs() { lines_with '\b(todo|unimplemented)!|#\[ignore|\b(TODO|FIXME|XXX)\b'; }

# Reads a document; prints each row of its tables whose last cell names no test, or one that is not
# there: a function of a Rust or Python file, or a script of setup/scenarios.
proofs() {
    local row name broken=0
    while read -r row; do
        local named=0
        while read -r name; do
            named=1
            is_proof "$name" || {
                say "there is no test $name: $row"
                broken=1
            }
        done < <(sed 's/ *| *$//; s/.*|//' <<<"$row" | quoted)
        [ "$named" -eq 1 ] || {
            say "no proof: $row"
            broken=1
        }
    done < <(grep '^|' | grep -vE '^\| *(---|line|extension) ')
    return "$broken"
}

# What stands between backticks.
# shellcheck disable=SC2016
quoted() { grep -o '`[^`]*`' | tr -d '`'; }

is_proof() {
    case $1 in
    *.sh) [ -f "$ROOT/setup/scenarios/$1" ] || [ -f "$ROOT/setup/$1" ] ;;
    *) grep -rqwE --include='*.rs' --include='*.py' --exclude-dir=target "(fn|def) $1" "$ROOT" ;;
    esac
}

# No dependency knows how to compile C, and none does when all build scripts run.
no_c() {
    local flags=(--workspace --no-default-features)
    cargo tree --quiet "${flags[@]}" -e normal,build --prefix none | c_builders || return 1
    c_shims "$SCRATCH/shims"
    env -u CC -u CXX PATH="$SCRATCH/shims:$PATH" CARGO_TARGET_DIR="$ROOT/target/no-c" \
        cargo check --quiet "${flags[@]}" || return 1
    if [ -s "$SCRATCH/shims/log" ]; then
        cat "$SCRATCH/shims/log"
        return 1
    fi
}

# Reads a list of packages; prints those that compile C.
c_builders() {
    ! sort -u | grep -E "$C_BUILDERS"
}

# Makes a directory of compilers that only link. What else they are asked for goes to its log.
c_shims() {
    local name real
    mkdir -p "$1"
    for name in cc gcc c++ g++ clang clang++ cpp as nasm cmake; do
        real=$(command -v "$name") || real=false
        cat >"$1/$name" <<END
#!/bin/sh
for argument; do
    case \$argument in
    -c | -E | -S | *.c | *.cc | *.cpp | *.cxx | *.S | *.s) compiles=yes ;;
    esac
done
case $name in
cc | gcc | clang) [ -n "\$compiles" ] || exec $real "\$@" ;;
esac
echo "$name \$*" >>"$1/log"
exit 1
END
        chmod +x "$1/$name"
    done
}

# Shows that each rule can fail, and that it passes what it should.
self() {
    local dir=$SCRATCH/self
    mkdir -p "$dir/bad" "$dir/good" "$dir/std"

    metadata hikyaku-kvs hikyaku-tcpstack | passes direction
    metadata hikyaku-gateway hikyaku-kvs | fails direction
    metadata hikyaku-tcpstack hikyaku-kvs-proto | fails direction
    metadata hikyaku-newcomer hikyaku-kvs | fails direction

    printf '%s\n' '#![no_std]' '#[cfg(test)]' 'extern crate std;' >"$dir/good/lib.rs"
    printf '%s\n' '#![no_std]' 'extern crate std;' >"$dir/bad/lib.rs"
    say '//! no_std, not.' >"$dir/std/lib.rs"
    passes no_std "$dir/good"
    fails no_std "$dir/bad"
    fails no_std "$dir/std"

    # Written in pieces, so that this script does not break its own rules.
    local word
    for word in 'unsafe { }' "x = to""do!()" "p = \"/ho""me/me\"" "#[ig""nore]"; do
        say "$word" >"$dir/bad/lib.rs"
        case $word in
        unsafe*) say "$dir/bad/lib.rs" | fails unsafe_lines ;;
        p*) say "$dir/bad/lib.rs" | fails machine_paths ;;
        *) say "$dir/bad/lib.rs" | fails stubs ;;
        esac
    done
    for word in unsafe_lines machine_paths stubs; do
        say '#![deny(unsafe_op_in_unsafe_fn)] // nothing unsafe here' >"$dir/good/lib.rs"
        say "$dir/good/lib.rs" | passes "$word"
    done

    for word in 'q x' 'E -q x' 'qw x'; do
        say "from | gr""ep -$word" >"$dir/bad/leaves.sh"
        say "$dir/bad/leaves.sh" | fails early_leavers
    done
    say 'from | he''ad -n 1' >"$dir/bad/leaves.sh"
    say "$dir/bad/leaves.sh" | fails early_leavers
    say 'from | has x || gr''ep -q x file' >"$dir/good/leaves.sh"
    say "$dir/good/leaves.sh" | passes early_leavers

    # shellcheck disable=SC2016
    say '| a line | does it | `proofs_of_this_kind_do_not_exist` |' | fails proofs
    say '| a line | does it | nothing |' | fails proofs
    # shellcheck disable=SC2016
    printf '%s\n' '| line | handling | proof |' '| --- | --- | --- |' \
        '| a line | does `it` | `only_crlf_dot_crlf_is_the_end`, `stop.sh` |' | passes proofs

    say 'bindgen v0.70.0' | fails c_builders
    say 'cc v1.0.0' | fails c_builders
    say 'crc32c v0.6.0' | passes c_builders
    c_shims "$dir/shims"
    fails "$dir/shims/cc" -c x.c -o x.o
    fails "$dir/shims/cmake" .
    passes "$dir/shims/cc" --version
    fails test ! -s "$dir/shims/log"
}

metadata() {
    printf '{"packages":[{"name":"%s","dependencies":[{"name":"%s","path":"x"},{"name":"y"}]}]}' "$@"
}

passes() { "$@" >"$SCRATCH/self.out" 2>&1 || die "the check '$*' fails on what is right"; }
fails() { ! "$@" >"$SCRATCH/self.out" 2>&1 || die "the check '$*' passes what is wrong"; }

main "$@"
