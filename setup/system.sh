# shellcheck shell=bash
# A whole system on loopback: two KVS, a gateway, and a sink for its next hop. To be sourced after
# lib.sh; `begin` was called.

# Addresses, set by prepare_system, and by add_spare.
KVS_A=
KVS_B=
# shellcheck disable=SC2034  # read by its name
KVS_C=
GATEWAY=
SINK=

# Chooses ports and writes the configuration files from the examples: $SCRATCH/kvs-a.toml,
# kvs-b.toml, gateway.toml.
prepare_system() {
    local ports examples=$ROOT/setup/examples
    mapfile -t ports < <(free_ports 4)
    KVS_A=127.0.0.1:${ports[0]}
    KVS_B=127.0.0.1:${ports[1]}
    GATEWAY=127.0.0.1:${ports[2]}
    SINK=127.0.0.1:${ports[3]}
    sed "s/127\.0\.0\.1:7001/$KVS_A/" "$examples/kvs.toml" >"$SCRATCH/kvs-a.toml"
    sed "s/127\.0\.0\.1:7001/$KVS_B/" "$examples/kvs.toml" >"$SCRATCH/kvs-b.toml"
    sed -e "s/127\.0\.0\.1:7001/$KVS_A/; s/127\.0\.0\.1:7002/$KVS_B/" \
        -e "s/127\.0\.0\.1:2600\"/$SINK\"/" \
        -e "s|^listen = .*|listen = [\"$GATEWAY\"]|" \
        -e "s|^register = .*|register = \"$SCRATCH/register\"|" \
        -e "s|^status_socket = .*|status_socket = \"$SCRATCH/gateway.sock\"|" \
        "$examples/gateway.toml" >"$SCRATCH/gateway.toml"
}

# add_spare: a third KVS for the example's group.
add_spare() {
    KVS_C=127.0.0.1:$(free_ports 1)
    sed "s/127\.0\.0\.1:7001/$KVS_C/" "$ROOT/setup/examples/kvs.toml" >"$SCRATCH/kvs-c.toml"
    sed -i -e "/^\[\[group\]\]/i [[kvs]]\nname = \"c\"\naddress = \"$KVS_C\"\n" \
        -e 's/^kvs = \["a", "b"\]/kvs = ["a", "b", "c"]/' "$SCRATCH/gateway.toml"
}

# Addresses of etcd's members, set by prepare_etcd; and what they are run by, if not as they are.
ETCD=()
ETCD_ON=()

# Chooses ports for three members of an etcd cluster; ETCD_PEERS is where they speak to each other.
prepare_etcd() {
    local ports
    mapfile -t ports < <(free_ports 6)
    ETCD=("${ports[@]:0:3}")
    ETCD=("${ETCD[@]/#/127.0.0.1:}")
    ETCD_PEERS=("${ports[@]:3}")
    ETCD_PEERS=("${ETCD_PEERS[@]/#/127.0.0.1:}")
}

# start_etcd NUMBER…: those members, with data of their own in $SCRATCH/etcd-NUMBER.data, until they
# have a leader.
start_etcd() {
    local number cluster
    cluster=$(for number in 0 1 2; do printf 'etcd-%s=http://%s,' "$number" "${ETCD_PEERS[number]}"; done)
    for number; do
        start "etcd-$number" "${ETCD_ON[@]}" "$PROGRAMS/etcd/usr/bin/etcd" --name "etcd-$number" \
            --data-dir "$SCRATCH/etcd-$number.data" \
            --listen-client-urls "http://${ETCD[number]}" \
            --advertise-client-urls "http://${ETCD[number]}" \
            --listen-peer-urls "http://${ETCD_PEERS[number]}" \
            --initial-advertise-peer-urls "http://${ETCD_PEERS[number]}" \
            --initial-cluster "${cluster%,}"
    done
    for number; do
        await 30 is_healthy "${ETCD[number]}" || die "etcd-$number has no leader after 30 s"
    done
}

# guard_etcd USER PASSWORD: has etcd ask who somebody is, and gives that user the gateways' keys.
guard_etcd() {
    local keys
    keys="\"key\": \"$(printf /hikyaku/ | base64)\", \"range_end\": \"$(printf /hikyaku0 | base64)\""
    etcd_auth user/add '{"name": "root", "password": "root"}'
    etcd_auth role/add '{"name": "root"}'
    etcd_auth user/grant '{"user": "root", "role": "root"}'
    etcd_auth user/add "{\"name\": \"$1\", \"password\": \"$2\"}"
    etcd_auth role/add '{"name": "gateways"}'
    etcd_auth role/grant "{\"name\": \"gateways\", \"perm\": {\"permType\": \"READWRITE\", $keys}}"
    etcd_auth user/grant "{\"user\": \"$1\", \"role\": \"gateways\"}"
    etcd_auth enable '{}'
}

etcd_auth() {
    curl -fsS --max-time 10 "http://${ETCD[0]}/v3/auth/$1" -d "$2" >"$SCRATCH/answer" || die "etcd refuses $1"
}

is_healthy() { "${ETCD_ON[@]}" curl -fs --max-time 2 "http://$1/health" | has true; }

# set_key FILE KEY VALUE: in a generated configuration file, at its top.
set_key() {
    grep -q "^$2 = " "$SCRATCH/$1.toml" || die "$1.toml has no key $2"
    sed -i "s|^$2 = .*|$2 = $3|" "$SCRATCH/$1.toml"
}

# add_key FILE KEY VALUE: a key that the example leaves at its default.
add_key() { sed -i "1i $2 = $3" "$SCRATCH/$1.toml"; }

# set_table FILE TABLE LINE…: replaces what a table of a generated configuration file says.
set_table() {
    local file=$SCRATCH/$1.toml table=$2
    shift 2
    grep -q "^\[$table\]" "$file" || die "$file has no table $table"
    printf '%s\n' "$@" >"$SCRATCH/table"
    sed -i "/^\[$table\]/,/^\[/{/^[a-z_]* = /d}; /^\[$table\]/r $SCRATCH/table" "$file"
}

# shorten_times RETRY_FIRST RETRY_MAX ANSWER BACKOFF_MIN BACKOFF_MAX: of the example's queue, and of what
# is awaited from next hops.
shorten_times() {
    sed -i -e "/^\[\[queue\]\]/a retry_first = \"$1\"\nretry_max = \"$2\"" \
        -e "s/^# delivery_\(greeting\|reply\|data_start\|data_block\|data_end\) = .*/delivery_\1 = \"$3\"/" \
        -e "s/^# backoff_min = .*/backoff_min = \"$4\"/; s/^# backoff_max = .*/backoff_max = \"$5\"/" \
        "$SCRATCH/gateway.toml"
}

# set_queues COUNT [LINE…]: so many queues d0.example… for the sink in the place of the example's, each
# with these lines.
set_queues() {
    local file=$SCRATCH/gateway.toml count=$1 number
    shift
    sed -i '/^\[\[queue\]\]/,/^\[limits\]/{/^\[limits\]/!d}' "$file"
    for ((number = 0; number < count; number++)); do
        printf '\n[[queue]]\nname = "d%s.example"\ngroup = "main"\nnext_hops = ["%s"]\n' "$number" "$SINK"
        [ $# -eq 0 ] || printf '%s\n' "$@"
    done >>"$file"
}

# start_system [OPTION…]: all four of them; the options are the sink's.
start_system() {
    start_kvs a
    start_kvs b
    start_sink "$@"
    start_gateway
}

# status_json: what the gateway tells of itself, in $SCRATCH/status.json.
status_json() {
    "$BIN/gateway" status --json --config "$SCRATCH/gateway.toml" >"$SCRATCH/status.json" 2>/dev/null || true
}

# links_running_on SEGMENT: how many links carry their requests over that one, of 0 and 1.
links_running_on() {
    local path=path
    [ "$1" -eq 0 ] || path=standby_path
    status_json
    jq --arg path "$path" '[.queues[0].copies[] | select(.[$path] == "run")] | length' "$SCRATCH/status.json"
}

start_kvs() {
    local address=KVS_${1^^}
    start "kvs-$1" "$BIN/kvs" --config "$SCRATCH/kvs-$1.toml"
    await_port "kvs-$1" "${!address}"
}

# The gateway opens its port when it has its copies.
start_gateway() {
    start gateway "$BIN/gateway" --config "$SCRATCH/gateway.toml"
    await_port gateway "$GATEWAY"
}

start_sink() {
    start sink "$BIN/loadgen" sink --listen "$SINK" "$@"
    await_port sink "$SINK"
}

# sink_has N: whether N different mails have arrived at a sink that was started with
# --status $SCRATCH/sink.status.
sink_has() {
    local arrived
    arrived=$(sed -n 's/^distinct = //p' "$SCRATCH/sink.status" 2>/dev/null) || return 1
    [ "${arrived:-0}" -ge "$1" ]
}

# start_load MESSAGES [OPTION…]: begins to send mail in the background; await_load waits for its end.
start_load() {
    local messages=$1
    shift
    [[ " $* " == *" --domains "* ]] || set -- --domain example.net "$@"
    start load "$BIN/loadgen" smtp --to "$GATEWAY" --messages "$messages" --sessions 10 \
        --ledger "$SCRATCH/client.ledger" "$@"
}

# Whatever is done now has to be done under load.
require_load() { is_running "$(pid_of load)" || die "the load is over too early"; }

await_load() {
    local status=0
    wait "$(pid_of load)" || status=$?
    forget "$(pid_of load)"
    return "$status"
}

# await_delivered N: until the sink, started with --ledger $SCRATCH/sink.ledger, has seen N mails,
# repeated ones included.
await_delivered() {
    await 120 has_delivered "$1" || die "the sink has not seen $1 mails after 120 s"
}

has_delivered() { [ "$(grep -c '^D ' "$SCRATCH/sink.ledger" 2>/dev/null)" -ge "$1" ]; }

# await_idle SECONDS: until the sink, started with --ledger $SCRATCH/sink.ledger, has noted nothing for
# so long: whatever comes twice has come.
await_idle() { await 60 was_idle "$1" || die "the sink does not come to rest"; }

was_idle() {
    local before
    before=$(stat -c %s "$SCRATCH/sink.ledger")
    sleep "$1"
    [ "$(stat -c %s "$SCRATCH/sink.ledger")" -eq "$before" ]
}

# judge [OPTION…]: ends the sink, which must have found nothing wrong, and has the ledger judge its log
# and the load's.
judge() {
    local status=0
    kill -TERM "$(pid_of sink)"
    wait "$(pid_of sink)" || status=$?
    forget "$(pid_of sink)"
    [ "$status" -eq 0 ] || {
        cat "$SCRATCH/sink.log"
        die "the sink found something wrong"
    }
    in_turn "$BIN/loadgen" ledger "$@" "$SCRATCH/client.ledger" "$SCRATCH/sink.ledger"
}

# begin_under_load MIN_SYNC MAILS DELIVERED: a system under a load of so many mails, of which so many
# have been delivered.
begin_under_load() {
    begin
    prepare_system
    set_key gateway min_sync "$1"
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    start_load "$2"
    await_delivered "$3"
    require_load
}

now_us() { printf '%s\n' "${EPOCHREALTIME/[.,]/}"; }

# latency FROM TO: of the mails whose final dot the client's ledger has in that time (microseconds since 1970): how
# many a second were accepted, and p50, p99 and p99.9 of the time to their 250, in microseconds.
latency() {
    awk -v from="$1" -v to="$2" '$1 == "A" && $5 >= from && $5 < to { print $4 - $5 }' \
        "$SCRATCH/client.ledger" | sort -n | awk -v span="$(($2 - $1))" '
            { all[NR] = $1 }
            function at(share) { return all[int(NR * share) < NR ? int(NR * share) + 1 : NR] }
            END { printf "%d %d %d %d\n", NR * 1000000 / span, at(0.5), at(0.99), at(0.999) }'
}
