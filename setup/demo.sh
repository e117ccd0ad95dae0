#!/usr/bin/env bash
# Shows the whole system at work on this machine: two KVS, a gateway and a sink on loopback.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=system.sh
. "$ROOT/setup/system.sh"

usage() {
    cat <<'END'
Usage: setup/demo.sh [--messages N] [--json FILE] [--keep]
       setup/demo.sh --stop

Installs what is missing, builds, starts two KVS, a gateway and a sink on free loopback ports, sends
mail through, and prints throughput, latency percentiles and the ledger's verdict. Ends all that it
started. Exit status 0 only if every mail arrived once, unaltered and in order.

  --messages N   how many mails to send (10000)
  --json FILE    the results also as JSON
  --keep         leave the system running and print its addresses
  --stop         end a system that --keep left running
  --help         this text
END
}

MESSAGES=10000
JSON=
KEEP=no
# Where the system that --keep leaves running has its files.
KEPT=${CARGO_TARGET_DIR:-$ROOT/target}/demo
# By how many mails one may be overtaken on its way to the sink: what four connections and the
# sender's sessions can have under way.
OVERTAKEN_MAX=100
# How long the sink may take for what was accepted, in seconds.
DRAIN_MAX=120

main() {
    while [ $# -gt 0 ]; do
        case $1 in
        --messages)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die "--messages wants a number, such as 10000"
            MESSAGES=$2
            shift
            ;;
        --json)
            [ -n "${2:-}" ] || die "--json wants the name of a file"
            JSON=$2
            shift
            ;;
        --keep) KEEP=yes ;;
        --stop)
            stop_kept
            exit 0
            ;;
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
    [ ! -d "$KEPT" ] || die "a demo is running already; setup/demo.sh --stop ends it"
    "$ROOT/setup/install.sh"
    say "building"
    build_release
    if [ "$KEEP" = yes ]; then begin_in "$KEPT"; else begin; fi
    prepare_system
    run
    [ "$KEEP" = no ] || keep
}

run() {
    local verdict=0
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    say "sending $MESSAGES mails: 70 % of 1 KB and 30 % of 10 KB, over 10 sessions"
    in_turn "$BIN/loadgen" smtp --to "$GATEWAY" --messages "$MESSAGES" --sessions 10 \
        --mix 70:1k,30:10k --domain example.net --ledger "$SCRATCH/client.ledger" \
        --cpu-of "gateway=$(pid_of gateway)" --cpu-of "kvs-a=$(pid_of kvs-a)" \
        --cpu-of "kvs-b=$(pid_of kvs-b)" --cpu-of "sink=$(pid_of sink)" \
        --json "$SCRATCH/smtp.json" || verdict=1
    await "$DRAIN_MAX" sink_has "$MESSAGES" ||
        warn "the sink does not have all mail after $DRAIN_MAX s"
    # First attempts go out in order over each connection; those of several connections may overtake
    # each other by what is under way.
    judge --order "$OVERTAKEN_MAX" --json "$SCRATCH/ledger.json" || verdict=1
    [ -z "$JSON" ] || write_json
    [ "$verdict" -eq 0 ] || die "the verdict is not clean"
}

write_json() {
    {
        printf '{"smtp":'
        cat "$SCRATCH/smtp.json"
        printf ',"ledger":'
        cat "$SCRATCH/ledger.json"
        printf '}\n'
    } >"$JSON"
}

keep() {
    start_sink --dump "$SCRATCH/mail"
    let_go
    cat <<END

The system goes on running:
  gateway   $GATEWAY   (SMTP, for example.net and all other domains)
  sink      $SINK   (where the gateway relays to)
  KVS       $KVS_A and $KVS_B
  files     $KEPT   (configuration, logs, and in mail/ what arrives from now on)
  status    $BIN/gateway status --config $KEPT/gateway.toml
To end it:  setup/demo.sh --stop
END
}

# Ends the processes of a kept system, if they are still ours, and removes its files.
stop_kept() {
    local file pid
    [ -d "$KEPT" ] || die "no demo is running"
    for file in "$KEPT"/*.pid; do
        pid=$(cat "$file")
        case $(readlink "/proc/$pid/exe") in
        "$BIN"/*) end_processes "$pid" ;;
        esac
    done
    rm -rf "$KEPT"
}

main "$@"
