#!/usr/bin/env bash
# All checks. Runs every section, then says which failed.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

SECTIONS=(install format scripts rules lint docs tests xdp costs seeds no-c examples demo clients mtas kill-gateway
    take-over sender kill-kvs nodes upgrade paths afxdp drivers backlog next-hop age stop reload register crowd large lab
    nic-queues launch beside compare scale)

usage() {
    cat <<END
Usage: setup/test.sh [SECTION…]

Runs all checks, or the sections named:

  install       the packages that the checks need (setup/install.sh --test)
  format        cargo fmt
  scripts       shellcheck, and what scripts make of their options
  rules         direction of dependencies, no_std, unsafe, and others (setup/checks.sh); each mutant fits
  lint          clippy, warnings are errors
  docs          rustdoc, warnings are errors
  tests         all tests of all crates
  xdp           AF_XDP and TCP over it, in network namespaces (needs root)
  costs         instructions of a message in each part, beside what they were
  seeds         the simulator with fresh seeds, of which the first is printed
  no-c          the build without the bypass compiles no C
  examples      the example configurations are accepted
  demo          small runs of setup/demo.sh: past the kernel where that can be had, and on loopback
  clients       odd mail of well-known clients arrives as it was sent
  mtas          odd mail from and to Postfix, OpenSMTPD and Exim, and to aiosmtpd, and its reports
  kill-gateway  the gateway is killed ten times under load
  take-over     the gateway is stopped past its lease, and a second one takes its queues over
  sender        the gateway is killed, and the sender programs deliver what it had until it returns
  kill-kvs      a KVS is killed under load, without and with a spare
  nodes         a KVS is added, one drained, taken out, and comes back, and copies move, under load
  upgrade       three KVS and the gateway go to another version of the protocol in turn, under load
  paths         one of two network segments is cut under load, again and again
  afxdp         links past the kernel: a KVS and the gateway are killed, a segment is cut, one end goes by the kernel
  drivers       several workers, merged and split, at the gateway and at the KVS
  backlog       mail piles up, the gateway is killed, then a next hop appears
  next-hop      a next hop that defers, refuses, hangs up, says nothing or nonsense, in any phase
  age           mail is warned about, given up and kept in strict order, and the gateway killed amid that
  stop          stops, lost servers, lost copies, and starts that must fail
  reload        the configuration changes under load; what is wrong is refused
  register      the register in etcd, whose members die; the gateway is killed, and fenced
  crowd         good mail beside thousands of sessions that do nothing, or a byte a second
  large         100 mails of 50 MB at once, for a gateway with room for ten
  lab           hosts in namespaces: queues, losses, and that nothing stays, however the making of them ends
  nic-queues    queues of interfaces are set up and given back: printed, refused, interrupted, restored
  launch        pinned programs: what does not fit, privileges, other threads; and the units for systemd
  beside        links past the kernel, and on the same interfaces ping, HTTP, a name server, others at a KVS' port
  compare       the smallest comparison with peers has a row for each; who lies is found out, who is missing is named
  scale         the smallest measurement of costs by queues, messages and sessions has a row for each, and all was there

Exit status 0 only if no section failed. A section that needs root and cannot have it is skipped.
END
}

main() {
    local section status passed=0 failed=0 skipped=0 summary=()
    case ${1:-} in
    --help | -h)
        usage
        exit 0
        ;;
    esac
    for section in "$@"; do
        [[ " ${SECTIONS[*]} " == *" $section "* ]] || {
            usage >&2
            exit 2
        }
    done
    [ $# -eq 0 ] || SECTIONS=("$@")
    cd "$ROOT"
    exec </dev/null
    for section in "${SECTIONS[@]}"; do
        printf '\n=== %s\n' "$section"
        SECONDS=0
        # Not in an `if`: that would switch `set -e` off inside.
        set +e
        (
            set -e
            run_section "$section"
        )
        status=$?
        set -e
        case $status in
        0)
            status=passed
            passed=$((passed + 1))
            ;;
        "$SKIPPED")
            status=skipped
            skipped=$((skipped + 1))
            ;;
        *)
            status=FAILED
            failed=$((failed + 1))
            ;;
        esac
        summary+=("$(printf '%-14s %-8s %4d s' "$section" "$status" "$SECONDS")")
    done
    printf '\n=== summary\n'
    printf '%s\n' "${summary[@]}"
    printf 'sections: %d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    [ "$failed" -eq 0 ]
}

run_section() {
    case $1 in
    install) setup/install.sh --test ;;
    format) cargo fmt --all --check ;;
    scripts)
        shellcheck -x .ci/run setup/*.sh setup/scenarios/*.sh setup/relays/*.sh
        setup/scenarios/options.sh
        ;;
    rules)
        setup/checks.sh direction no-std unsafe paths pipes stubs proofs self
        setup/mutants.sh --check
        ;;
    lint)
        cargo clippy --locked --quiet --workspace --all-targets -- -D warnings
        cargo clippy --locked --quiet "${XDP_CRATES[@]}" --all-targets -- -D warnings
        ;;
    docs)
        RUSTDOCFLAGS='-D warnings' cargo doc --locked --quiet --workspace --no-deps
        RUSTDOCFLAGS='-D warnings' cargo doc --locked --quiet "${XDP_CRATES[@]}" --no-deps
        ;;
    tests) run_tests ;;
    xdp) run_xdp ;;
    costs) run_costs ;;
    seeds) run_seeds ;;
    no-c) setup/checks.sh no-c ;;
    examples)
        build_release
        "$BIN/kvs" --config setup/examples/kvs.toml --check
        "$BIN/gateway" --config setup/examples/gateway.toml --check
        "$BIN/gateway" take-over --config setup/examples/sender.toml --check
        ;;
    demo)
        setup/demo.sh --messages 2000
        setup/demo.sh --messages 2000 --transport kernel
        ;;
    *) "setup/scenarios/$1.sh" ;;
    esac
}

run_tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --locked --workspace --status-level slow
        cargo test --locked --quiet --workspace --doc
    else
        cargo test --locked --quiet --workspace
    fi
}

# The crates in which the feature makes a difference of its own.
XDP_CRATES=(-p hikyaku-dataplane -p hikyaku-tcpstack --features "hikyaku-tcpstack/xdp hikyaku-dataplane/xdp")

run_xdp() {
    local as_root=() tests
    if [ "$(id -u)" -ne 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            say 'skipped: network namespaces need root'
            exit "$SKIPPED"
        fi
        as_root=(sudo -n --preserve-env=HIKYAKU_XDP_TESTS)
    fi
    export HIKYAKU_XDP_TESTS=required
    # Built without root, so that what is built is not root's.
    tests=$(cargo test --locked --quiet "${XDP_CRATES[@]}" --test xdp --test xdp_load --test conformance \
        --no-run --message-format json | jq -r 'select(.executable) | .executable')
    for test in $tests; do
        case ${test##*/} in
        # One after the other: each makes a network and wants both processors.
        conformance-*) "${as_root[@]}" "$test" --quiet --test-threads 1 over_xdp ;;
        *) "${as_root[@]}" "$test" --quiet --test-threads 1 ;;
        esac
    done
}

# Also with an expected count that is far off, which must be noticed.
run_costs() {
    local counts
    setup/instructions.sh
    counts=$(mktemp)
    sed 's/^kvs .*/kvs 1000/' setup/instructions.txt >"$counts"
    if setup/instructions.sh --expected "$counts" kvs >/dev/null 2>&1; then
        say 'a count that is far off was not noticed'
        exit 1
    fi
    rm "$counts"
}

# Other seeds each time: what is printed first repeats them.
run_seeds() {
    cargo build --locked --quiet --release -p hikyaku-sim --bin sim
    "$BIN/sim" --random --seeds 150 --mails 400 --faults all --jobs "$(nproc)" --quiet 2>/dev/null
    "$BIN/sim" --random --seeds 30 --mails 400 --faults crashes --jobs "$(nproc)" --quiet 2>/dev/null
    "$BIN/sim" --random --seeds 30 --mails 400 --faults paths --jobs "$(nproc)" --quiet 2>/dev/null
    "$BIN/sim" --random --seeds 20 --mails 400 --faults all --links smoltcp --jobs "$(nproc)" --quiet 2>/dev/null
}

main "$@"
