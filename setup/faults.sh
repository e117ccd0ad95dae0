#!/usr/bin/env bash
# Real faults, each many times, under load, with measured times.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=system.sh
. "$ROOT/setup/system.sh"
# shellcheck source-path=SCRIPTDIR source=hosts.sh
. "$ROOT/setup/hosts.sh"

# Each fault, and what its time is counted to.
FAULTS="
kill-kvs       a KVS is killed, and comes back empty later: a spare has taken its place
restart-kvs    a KVS is killed and starts again at once, empty: two copies count again
stop-kvs       a KVS stands still (SIGSTOP) for 3 s: a spare has taken its place
cut-link       the link of a segment goes down: the other one carries all requests
cut-there      a segment drops what goes to the KVS: the other one carries all requests
cut-back       a segment drops what comes from the KVS: the other one carries all requests
cut-kvs        a KVS is cut off on both segments: a spare has taken its place
kill-gateway   the gateway is killed and starts again: the first mail is accepted
stop-gateway   the gateway stands still for 3 s, longer than its lease: the first mail is accepted
take-over      the gateway is killed and stays away: the sender beside the first KVS has delivered the first mail,
               counted from the end of its delay; then the gateway is back
full-kvs       the KVS are full, as the next hop is away: the first mail is accepted once it is back
stop-etcd      the register, three members of etcd, stands still while a KVS is killed: the first mail is
               accepted once it goes on
"

usage() {
    cat <<END
Usage: setup/faults.sh [--times N] [--rate N] [--transport kernel|afxdp] [FAULT…]

Hosts in network namespaces, on two network segments: a gateway, and three KVS of which one is a spare.
Under load each fault, all or those named, happens N times; then the ledger judges: nothing that was answered 250
is lost or altered. Prints for each fault the least, the middle and the longest of the time until
it was dealt with, and of the longest time without an accepted mail. Needs root.

  --times N  how often each happens (10)
  --rate N   mails a second (500)
  --transport T
             by what the links between gateway and KVS go: kernel TCP, or past the kernel by AF_XDP (kernel).
             The senders' go by the kernel
  --help     this text

Faults, and to what their time is counted:
$(sed '/^$/d; s/^/  /' <<<"$FAULTS")

Exit status 0 only if every ledger is clean and each fault was dealt with.
END
}

TIMES=10
RATE=500
NAMES=()

all_faults() { first_words "$FAULTS"; }

main() {
    local name status failed=0
    read_options "--times TIMES number" "--rate RATE number" "--transport TRANSPORT kernel,afxdp" \
        "- NAMES $(all_faults | paste -sd ,)" -- "$@"
    [ ${#NAMES[@]} -gt 0 ] || mapfile -t NAMES < <(all_faults)
    require_namespaces
    build_release
    say "$TIMES times each, at $RATE mails a second, links by $TRANSPORT; milliseconds"
    printf '%-14s | %-23s | %s\n' '' 'dealt with after' 'longest time without a 250'
    printf '%-14s | %7s %7s %7s | %7s %7s %7s | %s\n' fault least middle most least middle most ledger
    for name in "${NAMES[@]}"; do
        # Not in an `if`: that would switch `set -e` off inside.
        set +e
        (
            set -e
            run "$name"
        )
        status=$?
        set -e
        [ "$status" -eq 0 ] || failed=1
    done
    return "$failed"
}

# run FAULT: a system of its own, the fault again and again, and the verdict.
run() {
    local fault=$1 turn verdict
    begin
    verdict=$SCRATCH/verdict
    begin_network gw a b c
    prepare_hosts a b c
    set_queues 4
    # What it needs beyond what all have.
    ! declare -F "prepare_${fault//-/_}" >/dev/null || "prepare_${fault//-/_}"
    start_kvs_on a
    start_kvs_on b
    start_kvs_on c
    start_sink_on_gw
    start_gateway_on_gw
    # For longer than it takes; it is ended.
    start_on gw load "$BIN/loadgen" smtp --to "$GATEWAY" --rate "$RATE" --duration 3600 --sessions 50 \
        --domains 4 --ledger "$SCRATCH/client.ledger"
    goes_on
    # Both to each KVS: what begins before has nothing to switch over to.
    await_said "$PATH_READY" 6 "not all paths are ready"
    links_go_by_transport || die "the links do not go by $TRANSPORT"
    for ((turn = 0; turn < TIMES; turn++)); do
        BEGAN=$(now_us)
        "fault_${fault//-/_}" "$turn"
        goes_on
        ROUNDS+=("$BEGAN $(now_us) $TOOK")
    done
    end_load "$verdict" || {
        cat "$verdict" >&2
        die "$fault: the ledger is not clean"
    }
    line "$fault"
}
# Of each round: beginning and end in microseconds since 1970, and how long it took to deal with it.
ROUNDS=()
# When the present round began, and how long it took to deal with the fault, in milliseconds.
BEGAN=
TOOK=
# When the next hop may get again what it had answered.
MARKS=()

end_load() {
    # What it has not heard of by then may be there or not.
    stop load
    await_idle 1
    judge "${MARKS[@]}" >"$1" 2>&1
}

line() {
    local round began ended took paused=() times=()
    for round in "${ROUNDS[@]}"; do
        read -r began ended took <<<"$round"
        times+=("$took")
        paused+=("$(longest_pause "$began" "$ended")")
    done
    printf '%-14s | %s | %s | clean\n' "$1" "$(spread "${times[@]}")" "$(spread "${paused[@]}")"
}

# spread NUMBER…: the least, the middle and the largest.
spread() {
    printf '%s\n' "$@" | sort -n | awk '{ all[NR] = $1 }
        END { printf "%7d %7d %7d", all[1], all[int((NR + 1) / 2)], all[NR] }'
}

# took: notes how long it took since the beginning of this round.
took() { TOOK=$((($(now_us) - BEGAN) / 1000)); }

goes_on() {
    local accepted delivered
    is_running "$(pid_of load)" || die "the load is over too early"
    accepted=$(count_in client A)
    delivered=$(count_in sink D)
    await 30 has_counted client A $((accepted + RATE / 4)) || die "no mail is accepted"
    await 30 has_counted sink D $((delivered + RATE / 4)) || die "no mail is delivered"
}

count_in() {
    local count
    count=$(grep -c "^$2 " "$SCRATCH/$1.ledger" 2>/dev/null) || true
    say "${count:-0}"
}

has_counted() { [ "$(count_in "$1" "$2")" -ge "$3" ]; }

# await_said TEXT TIMES WHAT: until the gateway has said that so often, and WHAT it means if it does not.
await_said() { await 30 has_logged "$1" "$2" || die "$3 after 30 s"; }

TAKEN_IN="the server's copies count"
PATH_READY='path ready'
PATH_LOST='path lost'
TAKES_OVER='takes over'

# choose_victim TURN: the KVS that counts and is to fail in this turn: the spare is the one of the turn before.
choose_victim() {
    local victims=(b a c)
    VICTIM=${victims[$1 % 3]}
    COUNTED=$(count_logged "$TAKEN_IN")
    READY=$(count_logged "$PATH_READY")
    RECORDS=$(grep 'queues claimed' "$SCRATCH/gateway.log" | grep -o 'cohort=[^ ]*' | sort -u | wc -l)
}
# The victim, how many records name it, and what the gateway had said before it failed.
VICTIM=
RECORDS=
COUNTED=
READY=

# Of the queues of every record.
await_replaced() {
    await_said "$TAKEN_IN" $((COUNTED + RECORDS)) "there are not two copies of each queue again without $VICTIM"
}

await_back() { await_said "$PATH_READY" $((READY + 1)) "$VICTIM does not come back"; }

fault_kill_kvs() {
    choose_victim "$1"
    kill_hard "kvs-$VICTIM"
    await_replaced
    took
    start_kvs_on "$VICTIM"
    await_back
}

fault_restart_kvs() {
    choose_victim "$1"
    kill_hard "kvs-$VICTIM"
    start_kvs_on "$VICTIM"
    await_replaced
    took
    await_back
}

fault_stop_kvs() {
    choose_victim "$1"
    kill -STOP "$(pid_of "kvs-$VICTIM")"
    await_replaced
    took
    sleep_until_ms 3000
    kill -CONT "$(pid_of "kvs-$VICTIM")"
    await_back
}

# sleep_until_ms N: until the round has lasted for so long.
sleep_until_ms() {
    local rest=$(($1 - ($(now_us) - BEGAN) / 1000))
    [ "$rest" -le 0 ] || sleep "$(awk -v ms="$rest" 'BEGIN { print ms / 1000 }')"
}

fault_cut_link() { cut_segment link "$1"; }
fault_cut_there() { cut_segment there "$1"; }
fault_cut_back() { cut_segment back "$1"; }

# cut_segment KIND TURN: of the two segments the one of the turn, or the other if no link runs on that.
cut_segment() {
    local kind=$1 segment=$(($2 % 2)) running ready switched lost
    # A path that was lost again and again is trusted later each time, and this is not about that.
    await 60 all_paths_are_ready || die "not all paths are ready again"
    BEGAN=$(now_us)
    running=$(links_running_on "$segment")
    if [ "$running" -eq 0 ]; then
        segment=$((1 - segment))
        running=$(links_running_on "$segment")
    fi
    ready=$(count_logged "$PATH_READY")
    switched=$(count_logged "$TAKES_OVER")
    lost=$(count_logged "$PATH_LOST")
    "cut_$kind" "$segment" a b c
    await_said "$TAKES_OVER" $((switched + running)) "no switch-over"
    took
    await_said "$PATH_LOST" $((lost + 3)) "the paths of segment $segment are not lost"
    "mend_$kind" "$segment" a b c
    await_said "$PATH_READY" $((ready + 3)) "the paths of segment $segment do not come back"
    ! logged 'copies are isolated' || die "a KVS was isolated although a path reached it"
}

# Whether requests may go by either path of each link.
all_paths_are_ready() {
    status_json
    jq -e '.queues[0].copies | length == 3 and all(.path != "ng" and .standby_path != "ng")' \
        "$SCRATCH/status.json" >/dev/null
}

fault_cut_kvs() {
    local segment
    choose_victim "$1"
    for segment in 0 1; do cut_there "$segment" "$VICTIM"; done
    await_replaced
    took
    for segment in 0 1; do mend_there "$segment" "$VICTIM"; done
    await_back
}

fault_kill_gateway() {
    MARKS+=(--restart-at "$(date +%s%3N)")
    kill_hard gateway
    BEGAN=$(now_us)
    start_gateway_on_gw
    await_accepted
}

fault_stop_gateway() {
    kill -STOP "$(pid_of gateway)"
    sleep 3
    BEGAN=$(now_us)
    kill -CONT "$(pid_of gateway)"
    await_accepted
}

# The client's ledger is written in blocks: its times count, and not when they are seen.
await_accepted() {
    local accepted
    accepted=$(count_in client A)
    await 30 has_counted client A $((accepted + RATE / 4)) || die "no mail is accepted"
    # Not by the first line of a `sort`: who writes to a reader that has left fails, and the script with it.
    TOOK=$(awk -v from="$BEGAN" '
        $1 == "A" && $4 > from { took = int(($4 - from) / 1000); if (!seen++ || took < least) least = took }
        END { print least }' "$SCRATCH/client.ledger")
}

# How long the queues are without an owner before a sender takes them.
SENDER_DELAY_MS=2000

# Queues that always have something, a next hop that all hosts reach, and senders on two of these.
prepare_take_over() {
    local name
    SINK=10.77.0.1:2600
    sed -i -e "s/^next_hops = .*/next_hops = [\"$SINK\"]/" \
        -e "/^\[\[queue\]\]/a rate_max = $((RATE / 5))" "$SCRATCH/gateway.toml"
    for name in a b; do
        sed -e "s|^beside = .*|beside = \"$name\"|; s|^register = .*|register = \"$SCRATCH/register\"|" \
            -e "s|sender\.sock|sender-$name.sock|; s|^# after = .*|after = \"$SENDER_DELAY_MS ms\"|" \
            "$ROOT/setup/examples/sender.toml" >"$SCRATCH/sender-$name.toml"
        start_on "$name" "sender-$name" "$BIN/gateway" take-over --config "$SCRATCH/sender-$name.toml"
    done
}
fault_take_over() {
    local delay_ended
    MARKS+=(--restart-at "$(date +%s%3N)")
    kill_hard gateway
    BEGAN=$(now_us)
    delay_ended=$((BEGAN + SENDER_DELAY_MS * 1000))
    await 30 has_delivered_since "$delay_ended" || die "the sender delivers nothing"
    TOOK=$(awk -v from="$delay_ended" '$1 == "D" && $4 > from { print int(($4 - from) / 1000); exit }' \
        "$SCRATCH/sink.ledger")
    start_gateway_on_gw
    ! grep -q 'taking them over' "$SCRATCH/sender-b.log" || die "the second sender took part"
}

has_delivered_since() {
    awk -v from="$1" '$1 == "D" && $4 > from { found = 1; exit } END { exit !found }' "$SCRATCH/sink.ledger"
}

# Room for some seconds of mail.
prepare_full_kvs() {
    local name
    for name in a b c; do set_key "kvs-$name" memory '"16 MiB"'; done
    sed -i 's/^# message_size_max = .*/message_size_max = "1 MiB"/' "$SCRATCH/gateway.toml"
    # The next hop answers when it goes on: who gave up on it would have to send again.
    shorten_times "500 ms" "1 s" "5 min" "100 ms" "500 ms"
}
fault_full_kvs() {
    local closed
    closed=$(count_logged 'ports closed')
    kill -STOP "$(pid_of sink)"
    await_said 'ports closed' $((closed + 1)) "mail is accepted although the KVS are full,"
    BEGAN=$(now_us)
    kill -CONT "$(pid_of sink)"
    await_accepted
}

prepare_stop_etcd() {
    ETCD_ON=(ip netns exec "$NET-gw")
    prepare_etcd
    set_key gateway register "[$(printf '"http://%s", ' "${ETCD[@]}")]"
    start_etcd 0 1 2
}
fault_stop_etcd() {
    local closed number
    choose_victim "$1"
    closed=$(count_logged 'ports closed')
    for number in 0 1 2; do kill -STOP "$(pid_of "etcd-$number")"; done
    kill_hard "kvs-$VICTIM"
    await_said 'ports closed' $((closed + 1)) "mail is accepted without a register and a KVS,"
    BEGAN=$(now_us)
    for number in 0 1 2; do kill -CONT "$(pid_of "etcd-$number")"; done
    await_replaced
    await_accepted
    start_kvs_on "$VICTIM"
    await_back
}

main "$@"
