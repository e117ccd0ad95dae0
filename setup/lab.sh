#!/usr/bin/env bash
# A lab for the bypass on one machine: hosts in network namespaces, on two network segments.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=network.sh
. "$ROOT/setup/network.sh"

usage() {
    cat <<'END'
Usage: setup/lab.sh up [--name NAME] [--hosts "HOST…"] [--description FILE] [--mtu BYTES]
                       [--xdp driver|generic] [--loss|--reorder|--duplicate|--corrupt PERCENT]
       setup/lab.sh loss|reorder|duplicate|corrupt PERCENT [--name NAME]
       setup/lab.sh xdp driver|generic [--name NAME]
       setup/lab.sh run HOST COMMAND… | status | down [--name NAME]

Hosts in network namespaces on this machine, with interfaces seg0 and seg1 on two network segments, a bridge each.
The interfaces have several queues; the bridges hand packets to them by TCP destination port, as a network card's
rules would, and checksums and segments are as on a real cable. Needs root, ethtool, nftables and clang or llvm.

  up       makes it. What was made is removed again if it does not come to its end
  loss, reorder, duplicate, corrupt
           change what happens to packets, while it is up
  xdp      changes for which XDP the bridges steer, while no program is attached
  run      runs a command on a host, as `ip netns exec NAME-HOST` does
  status   addresses, queues, what was steered and lost; exit status 3 if there is none
  down     removes what `up` has made, also when that was killed amid it. It refuses while processes run in it

  --name NAME         what the names of its namespaces begin with, at most 20 letters and digits (hklab)
  --hosts "HOST…"     its hosts, in the order of their numbers N: 10.77.0.N and 10.77.1.N
                      ("gw kvs1 kvs2 kvs3 out"); 11 letters and digits at most
  --description FILE  queues and steering: what it says of seg0 and seg1 (setup/examples/nic-queues.conf)
  --mtu BYTES         of all cables, at most 9000 (what the description says, or 1500). Native XDP takes 3498 at most
  --loss PERCENT      of all packets, in each direction, from 0 to 50, such as 0.1 (0)
  --reorder, --duplicate, --corrupt PERCENT
                      are overtaken by those that wait behind them, come twice, have one octet changed (0)
  --xdp MODE          the hosts' programs run in the driver or are generic (driver): with virtual interfaces the
                      queue by which a packet comes is another one
  --help              this text
END
}

NAME=hklab
LAB_HOSTS="gw kvs1 kvs2 kvs3 out"
DESCRIPTION=$ROOT/setup/examples/nic-queues.conf
LAB_MTU=
# What was made is noted below it before it is made, by the lab's name.
STATES=/run/hikyaku/lab
# The longest name of a bridge's port has one letter more than the host's and the kernel takes 15.
HOST_NAME='^[a-z][a-z0-9-]{0,10}$'

main() {
    local command=${1:-} knob
    case $command in
    up | down | status | loss | reorder | duplicate | corrupt | xdp | run) shift ;;
    --help | -h)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    case $command in
    xdp) NET_XDP=${1:-} ;;
    loss | reorder | duplicate | corrupt) WIRE[$command]=${1:-} ;;
    *) set -- - "$@" ;;
    esac
    [ $# -eq 0 ] || shift
    read_lab_options "$command" "$@"
    [[ $NAME =~ ^[a-z][a-z0-9]{0,19}$ ]] || die "--name wants letters and digits, such as hklab"
    [[ $NET_XDP =~ ^(driver|generic)$ ]] || die "programs run by XDP of the driver, or generic"
    for knob in "${!WIRE[@]}"; do
        is_percentage "${WIRE[$knob]}" || die "$knob wants per cent, from 0 to 50, such as 0.1"
    done
    NET=$NAME
    STATE=$STATES/$NAME
    [ "$(id -u)" -eq 0 ] || die "this needs root"
    "lab_$command"
}
# Where this lab's state is.
STATE=
# What `run` runs: a host and a command.
RUN=()

read_lab_options() {
    local command=$1
    shift
    while [ $# -gt 0 ]; do
        case $command:$1 in
        up:--hosts) LAB_HOSTS=${2:-} ;;
        up:--description) DESCRIPTION=${2:-} ;;
        up:--mtu)
            [[ ${2:-} =~ ^[1-9][0-9]{2,3}$ && $2 -ge 576 && $2 -le 9000 ]] || die "--mtu wants bytes, from 576 to 9000"
            LAB_MTU=$2
            ;;
        up:--loss | up:--reorder | up:--duplicate | up:--corrupt) WIRE[${1#--}]=${2:-} ;;
        up:--xdp) NET_XDP=${2:-} ;;
        *:--name) NAME=${2:-} ;;
        run:-*) die "run wants a host and a command" ;;
        run:*)
            RUN=("$@")
            return
            ;;
        *)
            usage >&2
            exit 2
            ;;
        esac
        [ $# -ge 2 ] || die "$1 wants a value"
        shift 2
    done
}

is_percentage() {
    [[ $1 =~ ^[0-9]{1,2}(\.[0-9]{1,6})?$ ]] && awk -v share="$1" 'BEGIN { exit !(share <= 50) }'
}

lab_up() {
    local host number=0
    read -ra HOSTS <<<"$LAB_HOSTS"
    for host in "${HOSTS[@]}"; do
        [[ $host =~ $HOST_NAME && $host != net ]] || die "'$host' is no name for a host"
        number=$((number + 1))
        [ "$(number_of "$host")" = "$number" ] || die "two hosts are called $host"
    done
    [[ $number -ge 1 && $number -le 50 ]] || die "a lab has from 1 to 50 hosts"
    require_tools
    [ ! -e "$STATE" ] || die "the lab $NAME is up, or was left half-made; setup/lab.sh down --name $NAME removes it"
    for host in net "${HOSTS[@]}"; do
        [ ! -e "/run/netns/$NET-$host" ] || die "there is a namespace $NET-$host that is not ours; take another --name"
    done
    describe_network "$DESCRIPTION"
    NET_MTU=${LAB_MTU:-$NET_MTU}
    # Only one makes it.
    mkdir -p "$STATES"
    mkdir "$STATE" || die "the lab $NAME is being made"
    trap 'give_up' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    # What it says of the machine, the real one, is not for a lab; the cables have their size already.
    sed -E '/^[[:space:]]*(huge-pages|mtu)[[:space:]]/d; s/([[:space:]])core[[:space:]]+[0-9]+/\1/' "$DESCRIPTION" \
        >"$STATE/description"
    make_lab
    trap - EXIT INT TERM HUP
    lab_status
}

require_tools() {
    local tool
    for tool in ip tc ethtool nft; do
        command -v "$tool" >/dev/null || die "there is no $tool; setup/install.sh installs what is missing"
    done
    has_assembler || die "there is neither llvm-mc nor clang; setup/install.sh installs what is missing"
    can_have_namespaces || die "this machine does not let us make network namespaces"
}

make_lab() {
    local host number=0
    note net
    make_segments
    for host in "${HOSTS[@]}"; do
        number=$((number + 1))
        note "$host"
        make_host "$host" "$number"
        bind_queues "$host"
    done
    steer
}

# note HOST: before its namespace is made, so that whoever finds the state knows what may be there.
note() { say "$1" >>"$STATE/hosts"; }

# The rest of what the description says, as on a real host.
bind_queues() {
    on "$1" "$ROOT/setup/nic-queues.sh" --state "$STATE/$1" "$STATE/description" seg0 seg1
}

steer() {
    local host knob
    NET_PROGRAM=$STATE/steering.o
    for host in "${HOSTS[@]}"; do steer_to "$host"; done
    say "$NET_XDP" >"$STATE/xdp"
    for knob in "${!WIRE[@]}"; do say "${WIRE[$knob]}" >"$STATE/$knob"; done
    # The last thing of all: whoever finds it knows that the lab is whole.
    say up >"$STATE/up"
}

# Ends `up` before its end: nothing stays.
give_up() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP
    warn "not made: removing what there is"
    remove_lab
    exit "$status"
}

# In the opposite order. The state goes last: whatever interrupts this, it can be done again.
remove_lab() {
    local host index
    [ -e "$STATE/hosts" ] && mapfile -t HOSTS <"$STATE/hosts" || HOSTS=()
    for ((index = ${#HOSTS[@]} - 1; index >= 0; index--)); do
        host=${HOSTS[index]}
        if [ "$host" = net ]; then remove_segments; else remove_host "$host"; fi
    done
    rm -rf "$STATE"
    rmdir "$STATES" /run/hikyaku 2>/dev/null || true
}

lab_down() {
    local host pids=''
    [ -d "$STATE" ] || {
        say "there is no lab $NAME"
        return 0
    }
    while read -r host; do
        [ ! -e "/run/netns/$NET-$host" ] || pids+=" $(ip netns pids "$NET-$host" | tr '\n' ' ')"
    done < <(cat "$STATE/hosts" 2>/dev/null)
    [ -z "${pids// /}" ] || die "processes run there; end them first:${pids}"
    remove_lab
}

lab_loss() { change_wire loss; }
lab_reorder() { change_wire reorder; }
lab_duplicate() { change_wire duplicate; }
lab_corrupt() { change_wire corrupt; }
lab_xdp() { change_wire xdp; }

# change_wire KNOB: that one; the others stay as they are.
change_wire() {
    local knob
    require_lab
    [ "$1" = xdp ] || NET_XDP=$(cat "$STATE/xdp")
    for knob in "${!WIRE[@]}"; do
        [ "$1" = "$knob" ] || WIRE[$knob]=$(cat "$STATE/$knob")
    done
    describe_network "$STATE/description"
    NET_MTU=$(on net cat /sys/class/net/br0/mtu)
    steer
}

lab_run() {
    require_lab
    [ ${#RUN[@]} -ge 2 ] || die "run wants a host and a command"
    [ -n "$(number_of "${RUN[0]}")" ] || die "the lab $NAME has no host ${RUN[0]}: it has ${HOSTS[*]}"
    exec ip netns exec "$NET-${RUN[0]}" "${RUN[@]:1}"
}

lab_status() {
    local host segment
    require_lab
    say "lab $NAME: namespaces $NET-HOST, steering for $(cat "$STATE/xdp") XDP, of packets to each host $(shares)"
    for host in "${HOSTS[@]}"; do
        for segment in 0 1; do
            printf '%-12s seg%s 10.77.%s.%-3s mtu %s, %s queues; to it: %s\n' "$host" "$segment" "$segment" \
                "$(number_of "$host")" "$(on "$host" cat "/sys/class/net/seg$segment/mtu")" \
                "$(on "$host" sh -c "ls -d /sys/class/net/seg$segment/queues/rx-*" | wc -l)" "$(counted "$host$segment")"
        done
    done
}

shares() {
    printf '%s %% lost, %s %% overtaken, %s %% doubled, %s %% altered\n' \
        "$(cat "$STATE/loss")" "$(cat "$STATE/reorder")" "$(cat "$STATE/duplicate")" "$(cat "$STATE/corrupt")"
}

# counted PORT: packets that went to the host, those lost there on purpose, and those for which the cable had no room: a
# virtual one holds 256 in each queue while the host uses XDP.
counted() {
    on net tc -s qdisc show dev "$1" clsact |
        sed -n 's/^ Sent [0-9]* bytes \([0-9]*\) pkt (dropped \([0-9]*\),.*/\1 packets, \2 lost/p' | tr '\n' ,
    say " $(on net cat "/sys/class/net/$1/statistics/tx_dropped") without room"
}

require_lab() {
    [ -s "$STATE/hosts" ] || {
        warn "there is no lab $NAME; setup/lab.sh up makes it"
        exit 3
    }
    [ -s "$STATE/up" ] || die "the lab $NAME was left half-made; setup/lab.sh down --name $NAME removes it"
    mapfile -t HOSTS < <(grep -vx net "$STATE/hosts")
}

main "$@"
