# shellcheck shell=bash disable=SC2153,SC2030,SC2031
# What scale.sh measures at whole systems: a gateway, two KVS and a sink. To be sourced by it.

# Mails that go before those that are measured: connections are open by then, and memory is taken.
WARM_UP=2000
SESSIONS=10
# Of the mails whose cost is measured: other guests of a host come and go within a second, so the cheapest slice counts.
SLICES=4
IDLE_FROM=127.0.0.2-127.0.1.250

# in_system FUNCTION ARGUMENT…: runs it with a directory of its own, which it has to fill with a system, and which ends with it.
in_system() {
    local pid status=0
    # Not in an `if`, and not with `||`: that would switch `set -e` off inside.
    (
        STARTED=()
        begin
        "$@"
    ) &
    pid=$!
    STARTED+=("$pid")
    wait "$pid" || status=$?
    forget "$pid"
    [ "$status" -eq 0 ] || die "a system cannot be measured: $*"
}

# prepare_with MEMORY: a system whose KVS have so much: memory that is not needed takes its time, too.
prepare_with() {
    prepare_system
    set_key kvs-a memory "\"$1\""
    set_key kvs-b memory "\"$1\""
}

# begin_relay QUEUES [FUNCTION]: a system that relays, with so many queues d0.example…, and with what FUNCTION does to its settings.
begin_relay() {
    prepare_with "256 MiB"
    [ $# -lt 2 ] || "$2"
    set_queues "$1"
    start_system --status "$SCRATCH/sink.status"
    SENT=0
}

# cpu_ns NAME: CPU time of a process so far, in nanoseconds where the kernel tells.
cpu_ns() {
    local pid
    pid=$(pid_of "$1")
    if ! cat "/proc/$pid/task/"*/schedstat 2>/dev/null | awk '{ sum += $1 } END { printf "%.0f\n", sum; exit !NR }'; then
        # Ticks of 10 ms, behind the program's name.
        sed 's/.*) //' "/proc/$pid/stat" | awk '{ printf "%.0f\n", ($12 + $13) * 10000000 }'
    fi
}

# send MAILS OPTION…: sends so many, and waits until the sink has them.
send() {
    local mails=$1
    shift
    in_turn "$BIN/loadgen" smtp --to "$GATEWAY" --messages "$mails" --json "$SCRATCH/smtp.json" "$@" \
        >"$SCRATCH/client.log" 2>&1 || die "not all mail was accepted"
    SENT=$((SENT + mails))
    await 120 sink_has "$SENT" || die "the sink does not have all mail after 120 s"
}

# cost MAILS OPTION…: sends so many, less what does not divide into slices. Of the cheapest slice, CPU time of a mail, in
# microseconds, is in GATEWAY_US and KVS_US (of both), and how many were accepted a second in RATE.
cost() {
    local slice slices=()
    for ((slice = 0; slice < SLICES; slice++)); do
        cost_of_slice $(($1 / SLICES)) "${@:2}"
        slices+=("$(calculate %.2f "$GATEWAY_US + $KVS_US") $GATEWAY_US $KVS_US $RATE")
    done
    read -r _ GATEWAY_US KVS_US RATE < <(printf '%s\n' "${slices[@]}" | sort -n)
}

cost_of_slice() {
    local gateway kvs
    gateway=$(cpu_ns gateway)
    kvs=$(($(cpu_ns kvs-a) + $(cpu_ns kvs-b)))
    send "$@"
    GATEWAY_US=$(calculate %.2f "($(cpu_ns gateway) - $gateway) / $1 / 1000")
    KVS_US=$(calculate %.2f "($(cpu_ns kvs-a) + $(cpu_ns kvs-b) - $kvs) / $1 / 1000")
    RATE=$(jq '.smtp.rate | round' "$SCRATCH/smtp.json")
}

measure_queues() {
    local queues round figures=$SCRATCH/queues.figures
    table queues "A gateway with many queues, to which mail of 1 KB goes in turn, over $SESSIONS sessions: CPU time of a mail" \
        queues mails_per_s gateway_us both_kvs_us all_us "${CORES_COLUMN[@]}"
    : >"$figures"
    for ((round = 0; round < ROUNDS; round++)); do
        for queues in "${QUEUES[@]}"; do
            in_system relay_by_queues "$queues" >>"$figures"
        done
    done
    cheapest_rows "$figures" 5 "${QUEUES[@]}"
    verdict cost "times the CPU time of a mail with one queue, at gateway and KVS, at most, with more$(unless_alike queues)" \
        "$(spread queues all_us)" most 1.2
}

relay_by_queues() {
    local load=(--sessions "$SESSIONS" --mix 100:1k --domains "$1")
    begin_relay "$1"
    send "$WARM_UP" "${load[@]}"
    near cost "$MAILS" "${load[@]}"
    say "$1 $RATE $GATEWAY_US $KVS_US $(calculate %.2f "$GATEWAY_US + $KVS_US") ${CORES_NS[*]}"
}

measure_sessions() {
    local figures=$SCRATCH/sessions.figures
    table sessions "Mail of 1 KB over $SESSIONS sessions, beside others that have said EHLO and nothing more: CPU time of a mail" \
        idle mails_per_s gateway_us both_kvs_us bytes_per_session "${CORES_COLUMN[@]}"
    in_system relay_beside_idle >"$figures"
    while read -ra figures; do row "${figures[@]}"; done <"$figures"
    verdict cost "times the CPU time of a mail at the gateway, beside $IDLE idle sessions$(unless_alike sessions)" \
        "$(spread sessions gateway_us)" most 1.2
    verdict memory "bytes of the gateway for each idle session" "$(column sessions bytes_per_session | tail -n 1)" most 4096
}

# Two lines of figures: without idle sessions, and beside them. Both are measured in turn, and the lowest counts.
relay_beside_idle() {
    local before after round alone='' beside='' load=(--sessions "$SESSIONS" --mix 100:1k --domain d0.example)
    begin_relay 1 let_idle_sessions_in
    send "$WARM_UP" "${load[@]}"
    for ((round = 0; round < ROUNDS; round++)); do
        near cost "$MAILS" "${load[@]}"
        alone+="0 $RATE $GATEWAY_US $KVS_US 0 ${CORES_NS[*]}"$'\n'
        before=$(resident gateway)
        start crowd "$BIN/loadgen" crowd --to "$GATEWAY" --local "$IDLE_FROM" --idle "$IDLE" \
            --seconds 600 --status "$SCRATCH/crowd.status"
        await 60 has_idle || die "not all idle sessions are in: $(tr '\n' ' ' <"$SCRATCH/crowd.status")"
        after=$(resident gateway)
        : "${SESSION_BYTES:=$(calculate %.0f "($after - $before) / $IDLE")}"
        near cost "$MAILS" "${load[@]}"
        has_idle || die "idle sessions were sent away"
        beside+="$IDLE $RATE $GATEWAY_US $KVS_US $SESSION_BYTES ${CORES_NS[*]}"$'\n'
        stop crowd
        rm "$SCRATCH/crowd.status"
    done
    for round in "$alone" "$beside"; do cheapest_of 3 <<<"$round"; done
}

let_idle_sessions_in() {
    sed -i -e "s/^# sessions_max = .*/sessions_max = $((IDLE + 1000))/" \
        -e "s/^# load_percent = .*/load_percent = 100/" "$SCRATCH/gateway.toml"
}

has_idle() {
    [ "$(sed -n 's/^idle_held = //p' "$SCRATCH/crowd.status" 2>/dev/null)" = "$IDLE" ]
}

measure_gateway() {
    local size figures
    table gateway "Memory of a gateway for mail that it holds" \
        size_bytes held bytes_per_mail beside_bytes
    for size in 1024 10240; do
        in_system hold_mail "$size" "$((HELD_MAILS / (size / 1024)))" >"$SCRATCH/held.figures"
        read -ra figures <"$SCRATCH/held.figures"
        row "$size" "${figures[@]}"
    done
    verdict memory "bytes of the gateway beside each mail of 1 KB that it holds" \
        "$(column gateway beside_bytes | sed -n 1p)" most 1536
}

# hold_mail BYTES MAILS
hold_mail() {
    local before each
    prepare_with "$(($2 * ($1 + 1024) / 1024 / 1024 + 256)) MiB"
    set_key gateway memory '"4 GiB"'
    set_queues 1 'bytes_max = "4 GiB"' 'send = "suspended"'
    start_system --status "$SCRATCH/sink.status"
    in_turn "$BIN/loadgen" smtp --to "$GATEWAY" --messages "$WARM_UP" --sessions "$SESSIONS" --mix 100:1k \
        --domain d0.example >"$SCRATCH/client.log" || die "not all mail was accepted"
    before=$(resident gateway)
    in_turn "$BIN/loadgen" smtp --to "$GATEWAY" --messages "$2" --sessions "$SESSIONS" --mix "100:$1" \
        --domain d0.example >"$SCRATCH/client.log" || die "not all mail was accepted"
    each=$(calculate %.0f "($(resident gateway) - $before) / $2")
    say "$2 $each $((each - $1))"
}

# By what the model says of mail of 1 KB and of 10 KB, what does it say of a mix, and what is it?
measure_model() {
    local figures what
    in_system relay_for_model >"$SCRATCH/model.figures"
    table sizes "What the model is made of: CPU time of a mail at the highest rate, and bytes between the gateway and one KVS" \
        size_bytes mails_per_s gateway_us one_kvs_us to_kvs_bytes from_kvs_bytes "${CORES_COLUMN[@]}"
    while read -r what figures; do
        # shellcheck disable=SC2086 # its words are the figures
        [ "$what" != size ] || row $figures
    done <"$SCRATCH/model.figures"
    table model "What it says of 70 % of 1 KB and 30 % of 10 KB at a share of its highest rate, beside what was measured" \
        share_percent mails_per_s gateway_us predicted_us ratio to_kvs_bytes predicted_bytes "${CORES_COLUMN[@]}"
    while read -r what figures; do
        # shellcheck disable=SC2086 # its words are the figures
        [ "$what" != share ] || row $figures
    done <"$SCRATCH/model.figures"
    verdict cost "times the predicted CPU time of a mixed mail at the gateway, at its highest rate$(unless_alike sizes model)" \
        "$(column model ratio | sed -n 1p)" most 1.2
    verdict cost "per cent between predicted and measured bytes of a mixed mail on a link" "$(jq -s \
        'map(select(.table == "model"))[0] | 100 * (.to_kvs_bytes / .predicted_bytes - 1) | fabs * 10 | round / 10' \
        "$SCRATCH/rows")" most 5
}

relay_for_model() {
    local size share rate bytes predicted
    local -A us=() to=()
    begin_relay 1
    send "$WARM_UP" --sessions "$SESSIONS" --mix 100:1k --domain d0.example
    for size in 1024 10240; do
        near on_links "$MAILS" --sessions "$SESSIONS" --mix "100:$size" --domain d0.example
        us[$size]=$GATEWAY_US to[$size]=$TO_BYTES
        say "size $size $RATE $GATEWAY_US $(calculate %.2f "$KVS_US / 2") $TO_BYTES $FROM_BYTES ${CORES_NS[*]}"
    done
    predicted=$(calculate %.2f "0.7 * ${us[1024]} + 0.3 * ${us[10240]}")
    bytes=$(calculate %.0f "0.7 * ${to[1024]} + 0.3 * ${to[10240]}")
    near on_links "$MAILS" --sessions "$SESSIONS" --mix 70:1k,30:10k --domain d0.example
    rate=$RATE
    say "share 100 $RATE $GATEWAY_US $predicted $(calculate %.2f "$GATEWAY_US / $predicted") $TO_BYTES $bytes ${CORES_NS[*]}"
    for share in 25 50 75; do
        near on_links "$((MAILS * share / 100))" --sessions 100 --rate "$((rate * share / 100))" --mix 70:1k,30:10k \
            --domain d0.example
        say "share $share $RATE $GATEWAY_US $predicted $(calculate %.2f "$GATEWAY_US / $predicted") $TO_BYTES $bytes ${CORES_NS[*]}"
    done
}

# on_links MAILS OPTION…: as `cost`, with bytes of a mail to one KVS and from it in TO_BYTES and FROM_BYTES.
on_links() {
    local before after mails=$SENT
    before=$(link_bytes)
    cost "$@"
    after=$(link_bytes)
    mails=$((SENT - mails))
    TO_BYTES=$(calculate %.0f "(${after% *} - ${before% *}) / $mails")
    FROM_BYTES=$(calculate %.0f "(${after#* } - ${before#* }) / $mails")
}

# link_bytes: what the gateway has sent to the first KVS and received from it, by the kernel's counts of its connections.
link_bytes() {
    ss -tinHO "dst $KVS_A" | awk '{
        for (place = 1; place <= NF; place++) {
            split($place, field, ":")
            if (field[1] == "bytes_sent") sent += field[2]
            if (field[1] == "bytes_received") received += field[2]
        }
    } END { print sent + 0, received + 0 }'
}
