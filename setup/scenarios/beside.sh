#!/usr/bin/env bash
# Links past the kernel, and beside them, on the same interfaces, what goes by the kernel: SMTP, ping, HTTP, questions to a
# name server, and somebody who is no peer at a KVS' port. None of it disturbs the others. And a KVS makes no call to the
# kernel to receive or send what is in the links. Needs root.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"
# shellcheck source-path=SCRIPTDIR source=../hosts.sh
. "$ROOT/setup/hosts.sh"
# shellcheck source-path=SCRIPTDIR source=../lab-system.sh
. "$ROOT/setup/lab-system.sh"

# Mails a second.
RATE=300
MAILS=4000
# What is fetched by HTTP.
PAGE_BYTES=1000000

main() {
    local tool why
    build_release
    why=$(why_no_bypass)
    [ -z "$why" ] || skip "$why"
    for tool in ping python3 strace jq; do
        command -v "$tool" >/dev/null || skip "there is no $tool"
    done
    begin
    begin_lab || die "the lab does not come up"
    prepare_lab_system afxdp
    start_lab_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status" || die "the system does not start"
    start_on out load "$BIN/loadgen" smtp --to "$GATEWAY" --rate "$RATE" --messages "$MAILS" --sessions 20 \
        --domain example.net --ledger "$SCRATCH/client.ledger"
    await 30 sink_has 100 || die "no mail is delivered"
    neighbours_answer
    pages_are_fetched
    names_are_told
    others_are_served_by_the_kernel
    the_kernel_is_not_called_for_links
    require_load
    show_links afxdp || die "the links do not go past the kernel"
    nothing_went_astray
    await_load || die "not all mail was accepted"
    await 60 sink_has "$MAILS" || die "the sink does not have all mail after 60 s"
    judge --order 100
}

neighbours_answer() {
    local segment number
    for segment in 0 1; do
        for number in 1 2; do
            on out ping -q -c 20 -i 0.02 -W 2 "10.77.$segment.$number" >"$SCRATCH/ping" ||
                die "host $number does not answer on segment $segment"
            grep -q ' 20 received' "$SCRATCH/ping" || die "pings are lost: $(cat "$SCRATCH/ping")"
        done
    done
}

# From the hosts of the gateway and of a KVS, on the segment that the links use.
pages_are_fetched() {
    local host number
    mkdir "$SCRATCH/pages"
    head -c "$PAGE_BYTES" /dev/urandom >"$SCRATCH/pages/page"
    for host in gw kvs1; do
        number=$(number_of "$host")
        start_on "$host" "http-$host" python3 -m http.server --directory "$SCRATCH/pages" \
            --bind "10.77.0.$number" 8080
        await 10 accepts_or_died "$host" "http-$host" "10.77.0.$number" 8080 || die "no HTTP server on $host"
        on out python3 -c 'import sys, urllib.request
sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1], timeout=10).read())' \
            "http://10.77.0.$number:8080/page" >"$SCRATCH/fetched" || die "no page comes from $host"
        cmp "$SCRATCH/pages/page" "$SCRATCH/fetched" || die "another page comes from $host"
        stop "http-$host"
    done
}

names_are_told() {
    start_on kvs1 names python3 "$ROOT/setup/scenarios/names.py" serve 10.77.0.2
    await 10 grep -q ready "$SCRATCH/names.log" || die "there is no name server"
    [ "$(on gw python3 "$ROOT/setup/scenarios/names.py" ask 10.77.0.2 mx.example.net)" = 192.0.2.25 ] ||
        die "the name server does not answer the gateway's host"
    stop names
}

# The host of client and sink is nobody's peer.
others_are_served_by_the_kernel() {
    on out bash -c 'exec 3<>/dev/tcp/10.77.0.2/7001' || die "who is no peer is not served by the kernel"
}

# By what strace counts while mail flows: what a KVS sends and receives for links it neither writes nor reads; a gateway does
# so for SMTP.
the_kernel_is_not_called_for_links() {
    count_calls kvs-kvs1
    say "system calls of a KVS in 2 s at $RATE mails a second:"
    awk '$4 + 0 > 0 && $NF != "total" { printf "  %s %s\n", $4, $NF }' "$SCRATCH/calls" | sed -n 1,8p
    ! moves_data || die "the KVS calls the kernel for its links: $(cat "$SCRATCH/calls")"
    count_calls gateway
    moves_data || die "the check of calls finds nothing"
}

count_calls() {
    timeout 2 strace -qq -f -c -p "$(pid_of "$1")" -o "$SCRATCH/calls" 2>"$SCRATCH/strace" || true
    grep -q total "$SCRATCH/calls" || die "strace counts nothing: $(cat "$SCRATCH/strace")"
}

# moves_data: whether what was counted is more than some lines for the log; packets would be hundreds a second.
moves_data() {
    awk '$NF ~ /^(sendmsg|sendmmsg|write|writev|recvfrom|recvmsg|recvmmsg|readv|accept4?)$/ && $4 >= 50 { found = 1 }
        END { exit !found }' "$SCRATCH/calls"
}

nothing_went_astray() {
    status_json
    jq -e '[.counters[].nic_queues[].counters] | (map(.received) | add) > 1000 and (map(.astray) | add) == 0' \
        "$SCRATCH/status.json" >/dev/null || {
        jq '.counters[].nic_queues' "$SCRATCH/status.json" >&2
        die "packets came by other queues, or hardly any by ours"
    }
}

main "$@"
