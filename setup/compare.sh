#!/usr/bin/env bash
# Hikyaku and its peers side by side, on this machine, in one go: a page that says who is ahead.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'END_OF_TEXT'
Usage: setup/compare.sh [--quick|--smallest] [--only PART,…] [--rounds N] [--out DIR] [--no-install] [--estimate]

Installs the peers that are missing (setup/install.sh --compare), starts each in its strongest fair configuration, drives it and
Hikyaku by the same client, taking turns, and writes DIR/comparison.html, .md and .json. It says how long it will take. Run it
on a quiet machine with two cores. docs/comparison.md tells how to read the page. Root is needed for mail servers and links; without
it they are named and left out. Exit status 0 only if every run counts.

  --quick         fewer sizes, depths and workloads: minutes
  --smallest      only to see that it works
  --only PART,…   kvs, recovery, gateway, transports (all)
  --rounds N      how often each (3, with --smallest 1)
  --out DIR       where the report goes (target/compare)
  --no-install    take the peers that are there
  --estimate      only say how long it will take
  --help          this text
END_OF_TEXT
}

SCALE=whole
ONLY=kvs,recovery,gateway,transports
ROUNDS=
OUT=${CARGO_TARGET_DIR:-$ROOT/target}/compare
INSTALL=yes
ESTIMATE=no

main() {
    local words=() inside=() status=0
    read_options "--quick SCALE =quick" "--smallest SCALE =smallest" "--only ONLY some:$ONLY" "--rounds ROUNDS number:99" \
        "--out OUT file" "--no-install INSTALL =no" "--estimate ESTIMATE =yes" -- "$@"
    [ "$(nproc)" -ge 2 ] || die "it takes two cores"
    [ "$INSTALL" = no ] || [ "$ESTIMATE" = yes ] || "$ROOT/setup/install.sh" --compare
    build_release
    # Not where /tmp may be a RAM disk: there are peers whose queue is to be on disk.
    mkdir -p "$OUT"
    begin_in "$(mktemp -d "$OUT/run.XXXXXX")"
    [[ ,$ONLY, != *,transports,* ]] || measure_links
    [ -z "$ROUNDS" ] || words+=(--rounds "$ROUNDS")
    [ "$ESTIMATE" = no ] || words+=(--estimate)
    [ ! -s "$SCRATCH/links.json" ] || words+=(--links "$SCRATCH/links.json")
    # It delivers in bursts, with pauses longer than the smallest comparison waits.
    [ "$SCALE" = smallest ] || words+=(--relay "OpenSMTPD, RAM disk=$ROOT/setup/relays/opensmtpd.sh")
    # With a network of its own, where there is nobody else's traffic and loopback can be set up as a peer needs it.
    if unshare --net true 2>/dev/null; then
        inside=(unshare --net -- sh -c 'ip link set lo up && exec "$@"' sh)
    fi
    in_turn "${inside[@]}" "$BIN/loadgen" compare --only "$ONLY" --scale "$SCALE" --programs "$PROGRAMS" \
        --relay "Hikyaku=$ROOT/setup/relays/hikyaku.sh" \
        --relay "Postfix, RAM disk=$ROOT/setup/relays/postfix-ram.sh" \
        --relay "Postfix, disk=$ROOT/setup/relays/postfix-disk.sh" \
        --scratch "$SCRATCH/work" --html "$OUT/comparison.html" --json "$OUT/comparison.json" \
        --markdown "$OUT/comparison.md" "${words[@]}" || status=$?
    [ "$ESTIMATE" = yes ] || say "the report: $OUT/comparison.html"
    exit "$status"
}

# The ways of a link, where hosts can be had.
measure_links() {
    local options=() minutes
    case $SCALE in
    smallest) options=(--seconds 1 --ways kernel --sizes 1k --depths 32 --mtus 1500) minutes=1 ;;
    quick) options=(--seconds 1 --sizes "400 10k" --depths "1 1024" --mtus 3498) minutes=2 ;;
    *) options=(--seconds 2) minutes=8 ;;
    esac
    say "links: about $minutes minutes"
    [ "$ESTIMATE" = no ] || return 0
    "$ROOT/setup/links.sh" "${options[@]}" --json "$SCRATCH/links.json" ||
        warn "links are left out: setup/links.sh fails"
}

main "$@"
