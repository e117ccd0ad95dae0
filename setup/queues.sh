# shellcheck shell=bash
# Reads the description of interfaces and their queues: setup/examples/nic-queues.conf shows its form. To be
# sourced after lib.sh.

# What the description says, by interface. QUEUES has a word QUEUE:CORE:BLOCK[,BLOCK…] for each dedicated
# queue, its core may be empty; a block is FIRST/COUNT. NEIGHBOURS has a word ADDRESS=MAC for each.
# shellcheck disable=SC2034  # read by those who source this
declare -A CHANNELS=() MTU=() STEERING=() COALESCE=() DEFER=() QUEUES=() NEIGHBOURS=()
INTERFACES=()
# Of the machine.
# shellcheck disable=SC2034
HUGE_PAGES=

# Interfaces have at most so many queues: what names more is a mistake in writing.
QUEUES_MAX=256

# read_description FILE: names every mistake, and ends if there is one.
read_description() {
    local file=$1 line number=0 mistakes=0 interface=
    local -A queue_taken=() port_taken=()
    [ -r "$file" ] || die "$file cannot be read"
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        # Words cannot have a wildcard in them.
        set -f
        # shellcheck disable=SC2086
        set -- ${line%%#*}
        set +f
        [ $# -gt 0 ] || continue
        described "$@" || {
            warn "$file:$number: $MISTAKE"
            mistakes=$((mistakes + 1))
        }
    done <"$file"
    for interface in "${INTERFACES[@]}"; do
        consistent || {
            warn "$file: $interface: $MISTAKE"
            mistakes=$((mistakes + 1))
        }
    done
    [ "$mistakes" -eq 0 ] || die "$file is not understood"
    [ ${#INTERFACES[@]} -gt 0 ] || die "$file names no interface"
}
# What is wrong with the line at hand.
MISTAKE=

wrong() {
    MISTAKE=$*
    return 1
}

# described KEY VALUE…: takes one line in, for the interface at hand.
described() {
    local key=$1
    shift
    case $key in
    interface)
        [[ ${1:-} =~ ^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$ && $# -eq 1 ]] || wrong "interface wants its name" || return 1
        [ -z "${QUEUES[$1]+named}" ] || wrong "$1 is described twice" || return 1
        interface=$1
        INTERFACES+=("$1")
        QUEUES[$1]=
        NEIGHBOURS[$1]=
        return
        ;;
    huge-pages)
        is_number 1 1048576 "$@" || wrong "huge-pages wants how many, from 1 to 1048576" || return 1
        HUGE_PAGES=$1
        return
        ;;
    esac
    [ -n "$interface" ] || wrong "'$key' belongs behind a line 'interface NAME'" || return 1
    case $key in
    channels)
        is_number 1 "$QUEUES_MAX" "$@" || wrong "channels wants how many, from 1 to $QUEUES_MAX" || return 1
        CHANNELS[$interface]=$1
        ;;
    mtu)
        is_number 576 65535 "$@" || wrong "mtu wants bytes, from 576 to 65535" || return 1
        MTU[$interface]=$1
        ;;
    steering)
        [[ "$*" =~ ^(rules|elsewhere)$ ]] || wrong "steering is 'rules' or 'elsewhere'" || return 1
        STEERING[$interface]=$1
        ;;
    coalesce)
        is_number 0 10000 "$@" || wrong "coalesce wants microseconds, from 0 to 10000" || return 1
        COALESCE[$interface]=$1
        ;;
    defer-interrupts)
        { [ $# -eq 2 ] && is_number 0 1000 "$1" && is_number 0 1000000000 "$2"; } ||
            wrong "defer-interrupts wants how often, and for how many nanoseconds" || return 1
        DEFER[$interface]="$1 $2"
        ;;
    neighbour)
        [[ ${1:-} =~ ^[0-9]+(\.[0-9]+){3}$ && ${2:-} =~ ^[0-9a-f]{2}(:[0-9a-f]{2}){5}$ && $# -eq 2 ]] ||
            wrong "neighbour wants an IPv4 address and a MAC such as 02:00:00:00:00:01" || return 1
        NEIGHBOURS[$interface]+=" $1=$2"
        ;;
    queue) described_queue "$@" ;;
    *) wrong "'$key' is none of: interface channels mtu steering coalesce defer-interrupts neighbour queue huge-pages" ;;
    esac
}

# described_queue NUMBER [core CORE] ports BLOCK…
described_queue() {
    local queue=${1:-} core='' block blocks=()
    is_number 0 $((QUEUES_MAX - 1)) "$queue" || wrong "queue wants its number, from 0 to $((QUEUES_MAX - 1))" || return 1
    [ -z "${queue_taken[$interface/$queue]:-}" ] || wrong "queue $queue of $interface is described twice" || return 1
    queue_taken[$interface/$queue]=yes
    shift
    if [ "${1:-}" = core ]; then
        is_number 0 4095 "${2:-}" || wrong "core wants the number of one" || return 1
        core=$2
        shift 2
    fi
    [ "${1:-}" = ports ] && [ $# -ge 2 ] ||
        wrong "say 'queue N core C ports FIRST/COUNT …' (without 'core C': not pinned)" || return 1
    shift
    for block; do
        take_block "$block" || return 1
        blocks+=("$block")
    done
    QUEUES[$interface]+=" $queue:$core:$(IFS=, && printf '%s' "${blocks[*]}")"
}

# take_block FIRST/COUNT: a block that one rule with a mask covers, and no other queue has.
take_block() {
    local first=${1%%/*} count=${1#*/} port
    [[ $1 =~ ^[0-9]+/[0-9]+$ ]] && is_number 1 65535 "$first" && is_number 1 1024 "$count" ||
        wrong "'$1' is no block of ports FIRST/COUNT, of at most 1024" || return 1
    [ $((count & (count - 1))) -eq 0 ] && [ $((first % count)) -eq 0 ] && [ $((first + count)) -le 65536 ] ||
        wrong "block $1: COUNT must be a power of two and FIRST a multiple of it, for one rule to cover it" || return 1
    for ((port = first; port < first + count; port++)); do
        [ -z "${port_taken[$interface/$port]:-}" ] || wrong "port $port of $interface is steered twice" || return 1
        port_taken[$interface/$port]=yes
    done
}

# is_number LEAST MOST WORD: whether there is one word, a whole number from LEAST to MOST.
is_number() {
    [ $# -eq 3 ] && [[ $3 =~ ^(0|[1-9][0-9]{0,8})$ ]] && [ "$3" -ge "$1" ] && [ "$3" -le "$2" ]
}

# consistent: whether what is said of the interface at hand fits together. The kernel's receive-side scaling
# is told "the first K queues", so the dedicated ones are the last.
consistent() {
    local word queue channels=${CHANNELS[$interface]:-}
    [ -n "${QUEUES[$interface]}" ] || wrong "no queue is described" || return 1
    [ -n "$channels" ] || wrong "'channels' is missing" || return 1
    for word in ${QUEUES[$interface]}; do
        queue=${word%%:*}
        [ "$queue" -lt "$channels" ] || wrong "queue $queue is beyond the $channels channels" || return 1
        [ "${STEERING[$interface]:-rules}" = elsewhere ] || [ "$queue" -ge "$(kernel_queues "$interface")" ] ||
            wrong "the dedicated queues must be the last ones, and queue 0 the kernel's" || return 1
    done
}

# kernel_queues INTERFACE: how many queues, from 0 on, the kernel has for itself; one at least.
kernel_queues() {
    local dedicated
    dedicated=$(wc -w <<<"${QUEUES[$1]}")
    say $((CHANNELS[$1] > dedicated ? CHANNELS[$1] - dedicated : 1))
}

# port_ranges INTERFACE: the ports of all its dedicated queues, FIRST-LAST or PORT, one a line.
port_ranges() {
    local word block
    for word in ${QUEUES[$1]}; do
        for block in $(tr , ' ' <<<"${word##*:}"); do port_range "$block"; done
    done
}

port_range() {
    local first=${1%%/*} count=${1#*/}
    if [ "$count" -eq 1 ]; then say "$first"; else say "$first-$((first + count - 1))"; fi
}

# silence_rules INTERFACE: nftables' rules for what the kernel must not say. While no program of ours is attached (it
# was killed, or the link is being opened again), the kernel gets segments of connections that it knows nothing of,
# and would answer by RST without ACK, which ends them. Its refusal of a new connection has an ACK and passes: that is
# how others learn at once that a process has ended. Kernel TCP on these ports is not disturbed.
silence_rules() {
    local table
    table=$(silence_table "$1")
    cat <<END
add table inet $table
delete table inet $table
table inet $table {
    chain output {
        type filter hook output priority filter; policy accept;
        oifname "$1" tcp sport { $(port_ranges "$1" | paste -sd , -) } tcp flags & (rst | ack) == rst counter drop
    }
}
END
}

# silence_table INTERFACE: its name, of letters that nftables takes.
silence_table() { say "hikyaku_${1//[^A-Za-z0-9]/_}"; }
