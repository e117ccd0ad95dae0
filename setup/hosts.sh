# shellcheck shell=bash
# A gateway and KVS on several hosts of this machine, on two network segments. To be sourced after lib.sh and
# system.sh. Needs root.

# shellcheck source-path=SCRIPTDIR source=network.sh
. "$ROOT/setup/network.sh"

# By what the links go: kernel or afxdp. For the latter the interfaces have queues, and the programs take one on each.
TRANSPORT=kernel

require_namespaces() {
    can_have_namespaces || {
        warn "network namespaces need root"
        exit "$SKIPPED"
    }
}

# begin_network HOST…: hosts with an interface on each of two segments. `begin` was called.
begin_network() {
    local host number=0
    HOSTS=("$@")
    trap 'leave_network' EXIT
    [ "$TRANSPORT" = kernel ] || describe_network "$ROOT/setup/examples/nic-queues.conf"
    make_segments
    for host in "${HOSTS[@]}"; do
        number=$((number + 1))
        make_host "$host" "$number"
    done
    [ "$TRANSPORT" = kernel ] || give_queues
}

# Has packets come by the queues of the description, on all hosts.
give_queues() {
    local host segment
    NET_PROGRAM=$SCRATCH/steering.o
    for host in "${HOSTS[@]}"; do
        steer_to "$host"
        for segment in seg0 seg1; do silence_rules "$segment" | on "$host" nft -f -; done
    done
}

# Ends the network too, whatever the end is, and with its status.
leave_network() {
    local status=$? host
    for host in "${HOSTS[@]}"; do remove_host "$host" || true; done
    remove_segments || true
    set +e
    finish "$status"
}

# start_on HOST NAME COMMAND…: like start, on a host.
start_on() {
    local host=$1 name=$2
    shift 2
    start "$name" ip netns exec "$NET-$host" "$@"
}

# prepare_hosts KVS…: configurations for a gateway on host gw, and for a KVS on each of these hosts, with
# addresses on both segments; gateway, client and sink speak SMTP over the loopback of gw.
prepare_hosts() {
    local examples=$ROOT/setup/examples name number
    for name; do
        number=$(number_of "$name")
        sed "s/^listen = .*/listen = [\"10.77.0.$number:7001\", \"10.77.1.$number:7001\"]/" \
            "$examples/kvs.toml" >"$SCRATCH/kvs-$name.toml"
    done
    GATEWAY=127.0.0.1:2525
    SINK=127.0.0.1:2600
    sed -e '/^\[\[kvs\]\]/,/^\[\[group\]\]/{/^\[\[group\]\]/!d}' \
        -e "s|^listen = .*|listen = [\"$GATEWAY\"]|" \
        -e "s|^register = .*|register = \"$SCRATCH/register\"|" \
        -e "s/^kvs = .*/kvs = [$(printf '"%s", ' "$@" | sed 's/, $//')]/" \
        "$examples/gateway.toml" >"$SCRATCH/gateway.toml"
    for name; do add_host_kvs "$name"; done
    [ "$TRANSPORT" = afxdp ] || return 0
    take_bypass gateway "$(number_of gw)" "ports = 61440"
    for name; do take_bypass "kvs-$name" "$(number_of "$name")" 'peers = ["10.77.SEGMENT.1"]'; done
}

# add_host_kvs HOST: a KVS of the gateway's, reached over both segments.
add_host_kvs() {
    local number
    number=$(number_of "$1")
    sed -i "/^\[\[group\]\]/i [[kvs]]\nname = \"$1\"\naddress = \"10.77.0.$number:7001\"\nlocal = \"10.77.0.1\"\
\nstandby_address = \"10.77.1.$number:7001\"\nstandby_local = \"10.77.1.1\"\nnode = \"$1\"\n" \
        "$SCRATCH/gateway.toml"
}

# take_bypass FILE NUMBER LINE: has a program, on the host of that number, take a queue on each segment, with a line of its
# own for each of them, in which SEGMENT is 0 or 1.
take_bypass() {
    local segment
    # What the example has in their place.
    sed -i '/^\[\[interface\]\]/,/^$/d; /^\[links\]/,/^$/d' "$SCRATCH/$1.toml"
    {
        printf '\n[links]\ntransport = "afxdp"\n'
        for segment in 0 1; do
            printf '\n[[interface]]\nname = "seg%s"\naddress = "10.77.%s.%s"\nnic_queues = "1"\n%s\n' \
                "$segment" "$segment" "$2" "${3//SEGMENT/$segment}"
        done
    } >>"$SCRATCH/$1.toml"
}

start_kvs_on() { start_on "$1" "kvs-$1" "$BIN/kvs" --config "$SCRATCH/kvs-$1.toml"; }

start_sink_on_gw() {
    start_on gw sink "$BIN/loadgen" sink --listen "$SINK" --ledger "$SCRATCH/sink.ledger" \
        --status "$SCRATCH/sink.status"
}

# The gateway says that it listens when it has its copies.
start_gateway_on_gw() {
    local times
    times=$(count_logged listening)
    start_on gw gateway "$BIN/gateway" --config "$SCRATCH/gateway.toml"
    await 30 has_logged 'listening' $((times + 1)) || die "the gateway does not listen after 30 s"
}

logged() { grep -q -e "$1" "$SCRATCH/gateway.log"; }

count_logged() { grep -c -e "$1" "$SCRATCH/gateway.log" 2>/dev/null || true; }

# has_logged TEXT TIMES: whether the gateway has said that so often, over all its lives.
has_logged() {
    local times
    times=$(count_logged "$1")
    [ "${times:-0}" -ge "$2" ]
}

# Cuts of a segment, seen from gw: its link; or by dropping, without a word, what goes to the hosts named
# or what comes from them.
cut_link() { ip -n "$NET-net" link set "gw$1" down; }
mend_link() { ip -n "$NET-net" link set "gw$1" up; }
cut_there() {
    local host
    for host in "${@:2}"; do divert gw "$1" "$host"; done
}
mend_there() {
    local host
    for host in "${@:2}"; do undo_divert gw "$1" "$host"; done
}
cut_back() {
    local host
    for host in "${@:2}"; do divert "$host" "$1" gw; done
}
mend_back() {
    local host
    for host in "${@:2}"; do undo_divert "$host" "$1" gw; done
}

# divert FROM SEGMENT TO: what goes there is addressed to nobody, and the bridge, which does not know that address, keeps it
# from who would take it by its IP address: links past the kernel do.
divert() {
    ip -n "$NET-net" link set "$3$2" type bridge_slave flood off
    ip -n "$NET-$1" neighbour replace "10.77.$2.$(number_of "$3")" lladdr 02:00:00:00:00:77 \
        dev "seg$2" nud permanent
}

undo_divert() { ip -n "$NET-$1" neighbour del "10.77.$2.$(number_of "$3")" dev "seg$2"; }

# links_go_by_transport: whether the gateway's links go as they should, by what the kernel of its host knows of them.
links_go_by_transport() {
    local connections
    connections=$(on gw ss -Htn state established '( dport = :7001 )' | wc -l)
    if [ "$TRANSPORT" = afxdp ]; then [ "$connections" -eq 0 ]; else [ "$connections" -gt 0 ]; fi
}

# longest_pause FROM TO: the longest time between acknowledgements in the client's ledger, in whole
# milliseconds; from and to are in microseconds since 1970.
longest_pause() {
    awk -v from="$1" -v to="$2" '$1 == "A" && $4 >= from && $4 <= to { print $4 }' \
        "$SCRATCH/client.ledger" | sort -n | awk -v last="$1" -v to="$2" '
            { if ($1 - last > most) most = $1 - last; last = $1 }
            END { if (to - last > most) most = to - last; printf "%d\n", most / 1000 }'
}
