#!/usr/bin/env bash
# Shows the whole system at work on this machine: two KVS, a gateway and a sink, on hosts of their own in network
# namespaces, their links past the kernel; or, where that cannot be, on loopback.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=system.sh
. "$ROOT/setup/system.sh"
# shellcheck source-path=SCRIPTDIR source=hosts.sh
. "$ROOT/setup/hosts.sh"
# shellcheck source-path=SCRIPTDIR source=lab-system.sh
. "$ROOT/setup/lab-system.sh"

usage() {
    cat <<'END'
Usage: setup/demo.sh [--messages N] [--transport auto|afxdp|kernel] [--lab] [--json FILE] [--keep]
       setup/demo.sh --stop

Installs what is missing, builds, starts two KVS, a gateway and a sink, sends mail through, and prints
throughput, latency percentiles and the ledger's verdict. Ends all that it started. Exit status 0 only
if every mail arrived once, unaltered and in order.

  --messages N   how many mails to send (10000)
  --transport T  afxdp: gateway and KVS are three hosts in network namespaces, client and sink a fourth one, and the
                 links between gateway and KVS go past the kernel (AF_XDP). kernel: kernel TCP, all on free ports of
                 loopback. auto: afxdp where it can be had (root, kernel, tool chain), else kernel; it says which (auto)
  --lab          with kernel TCP: on those hosts too, to compare
  --json FILE    the results also as JSON
  --keep         leave the system running and print its addresses
  --stop         end a system that --keep left running
  --help         this text
END
}

MESSAGES=10000
# By what the links are to go.
WANTED=auto
# Where: loopback, or the lab.
PLACE=
JSON=
KEEP=no
STOP=no
# Where the system that --keep leaves running has its files.
KEPT=${CARGO_TARGET_DIR:-$ROOT/target}/demo
# By how many mails one may be overtaken on its way to the sink: what four connections and the
# sender's sessions can have under way.
OVERTAKEN_MAX=100
# How long the sink may take for what was accepted, in seconds.
DRAIN_MAX=120

main() {
    read_options "--messages MESSAGES number" "--transport WANTED auto,afxdp,kernel" "--lab PLACE =lab" "--json JSON file" \
        "--keep KEEP =yes" "--stop STOP =yes" -- "$@"
    if [ "$STOP" = yes ]; then
        stop_kept
        return
    fi
    [ ! -d "$KEPT" ] || die "a demo is running already; setup/demo.sh --stop ends it"
    "$ROOT/setup/install.sh"
    say "building"
    build_release
    if [ "$KEEP" = yes ]; then begin_in "$KEPT"; else begin; fi
    choose_transport
    run
    [ "$KEEP" = no ] || keep
}

# Decides by what the links go, says so, and starts the system.
choose_transport() {
    local why
    if [ "$WANTED" != kernel ]; then
        why=$(why_no_bypass)
        if [ -z "$why" ]; then
            start_in_lab afxdp && return 0
            why="it could not be started: $(last_error)"
        fi
        [ "$WANTED" = auto ] || die "AF_XDP cannot be had: $why"
        say "links by kernel TCP: AF_XDP cannot be had: $why"
        [ ! -e "$SCRATCH/lab" ] || leave_for_loopback
    fi
    TRANSPORT=kernel
    if [ "$PLACE" = lab ]; then
        start_in_lab kernel || die "the system does not start: $(last_error)"
        return 0
    fi
    PLACE=loopback
    prepare_system
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    say "links by kernel TCP, on loopback"
}

# start_in_lab afxdp|kernel
start_in_lab() {
    begin_lab || return 1
    prepare_lab_system "$1"
    start_lab_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status" || return 1
    PLACE=lab
    if [ "$1" = afxdp ]; then
        say "links by AF_XDP, past the kernel, between hosts in network namespaces"
    else
        say "links by kernel TCP, between hosts in network namespaces"
    fi
}

# What the last program that did not start has said last.
last_error() {
    local log last='its log is empty'
    for log in "$SCRATCH"/{lab,kvs-*,gateway}.log; do
        [ ! -s "$log" ] || last=$(tail -n 1 "$log")
    done
    say "$last"
}

leave_for_loopback() {
    end_lab
    trap 'finish' EXIT
    rm -f "$SCRATCH"/*.log "$SCRATCH"/*.pid "$SCRATCH"/*.toml "$SCRATCH"/sink.* "$SCRATCH/lab"
}

# with_client COMMAND…: where the client is.
with_client() { if [ "$PLACE" = lab ]; then on out "$@"; else "$@"; fi; }

run() {
    local verdict=0
    say "sending $MESSAGES mails: 70 % of 1 KB and 30 % of 10 KB, over 10 sessions"
    in_turn with_client "$BIN/loadgen" smtp --to "$GATEWAY" --messages "$MESSAGES" --sessions 10 \
        --mix 70:1k,30:10k --domain example.net --ledger "$SCRATCH/client.ledger" \
        --cpu-of "gateway=$(pid_of gateway)" --cpu-of "kvs-a=$(pid_of "$(kvs_called a)")" \
        --cpu-of "kvs-b=$(pid_of "$(kvs_called b)")" --cpu-of "sink=$(pid_of sink)" \
        --json "$SCRATCH/smtp.json" || verdict=1
    await "$DRAIN_MAX" sink_has "$MESSAGES" ||
        warn "the sink does not have all mail after $DRAIN_MAX s"
    if [ "$PLACE" = lab ]; then
        show_links "$TRANSPORT" || die "the links do not go by what was asked for"
    fi
    # First attempts go out in order over each connection; those of several connections may overtake
    # each other by what is under way.
    judge --order "$OVERTAKEN_MAX" --json "$SCRATCH/ledger.json" || verdict=1
    [ -z "$JSON" ] || write_json
    [ "$verdict" -eq 0 ] || die "the verdict is not clean"
}

# kvs_called a|b: the name under which it was started.
kvs_called() {
    case $PLACE$1 in
    laba) say kvs-kvs1 ;;
    labb) say kvs-kvs2 ;;
    *) say "kvs-$1" ;;
    esac
}

write_json() {
    {
        printf '{"transport":"%s","smtp":' "$TRANSPORT"
        cat "$SCRATCH/smtp.json"
        printf ',"ledger":'
        cat "$SCRATCH/ledger.json"
        printf '}\n'
    } >"$JSON"
}

keep() {
    if [ "$PLACE" = lab ]; then
        start_lab_sink --dump "$SCRATCH/mail"
    else
        start_sink --dump "$SCRATCH/mail"
    fi
    let_go
    cat <<END

The system goes on running:
  gateway   $GATEWAY   (SMTP, for example.net and all other domains)
  sink      $SINK   (where the gateway relays to)
  files     $KEPT   (configuration, logs, and in mail/ what arrives from now on)
  status    $BIN/gateway status --config $KEPT/gateway.toml
END
    [ "$PLACE" = loopback ] || cat <<END
  hosts     setup/lab.sh run --name $NET out COMMAND…, and gw, kvs1, kvs2: these addresses are there
END
    say "To end it:  setup/demo.sh --stop"
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
    if [ -s "$KEPT/lab" ]; then "$ROOT/setup/lab.sh" down --name "$(cat "$KEPT/lab")" >/dev/null; fi
    rm -rf "$KEPT"
}

main "$@"
