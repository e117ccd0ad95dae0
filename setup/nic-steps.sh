# shellcheck shell=bash
# What setup/nic-queues.sh does to an interface, step by step. Each looks at what is there, notes how to restore it, and
# changes what differs from the description. To be sourced by that script alone.

# failed, cannot WHAT: the links depend on it, or only run better with it.
failed() { FAILED+=("$*${SAID:+: $SAID}"); }
cannot() { CANNOT+=("$*${SAID:+: $SAID}"); }

# ask OPTION INTERFACE: what ethtool shows; nothing where the driver has nothing to show.
ask() { ethtool "$@" 2>/dev/null || true; }

step_mtu() {
    local wanted=${MTU[$1]:-} found
    found=$(cat "/sys/class/net/$1/mtu")
    [ -n "$wanted" ] && [ "$wanted" != "$found" ] || return 0
    remember "mtu@$1" ip link set dev "$1" mtu "$found"
    change ip link set dev "$1" mtu "$wanted" || failed "$1 does not take an MTU of $wanted"
}

# channels_now INTERFACE: how many queues there are, for receiving.
channels_now() { channels_of "$1" | awk '{ print $2 }'; }

# channels_of INTERFACE: how its queues are counted, `combined` or `rx`, and how many there are.
channels_of() {
    ask -l "$1" | awk '
        /^Current/ { current = 1 }
        current && $1 == "Combined:" && $2 + 0 > 0 { combined = $2 }
        current && $1 == "RX:" && $2 + 0 > 0 { rx = $2 }
        END { if (combined) print "combined", combined; else if (rx) print "rx", rx; else print "combined", 1 }'
}

step_channels() {
    local interface=$1 wanted=${CHANNELS[$1]} kind found highest
    read -r kind found < <(channels_of "$interface")
    # Noted here, and so restored behind the channels: the table that was found may name queues that are not there now.
    note_scaling "$interface"
    [ "$wanted" != "$found" ] || return 0
    # shellcheck disable=SC2046 # words
    remember "channels@$interface" ethtool -L "$interface" $(counted_as "$kind" "$found")
    highest=$(scaling_table "$interface" | sort -n | tail -n 1)
    if [ "${highest:-0}" -ge "$wanted" ]; then
        # The kernel does not take queues away that the table names.
        change ethtool -X "$interface" equal "$(kernel_queues "$interface")" || true
    fi
    # shellcheck disable=SC2046 # words
    change ethtool -L "$interface" $(counted_as "$kind" "$wanted") || failed "$interface does not take $wanted channels"
}

counted_as() { if [ "$1" = rx ]; then say "rx $2 tx $2"; else say "combined $2"; fi; }

# A burst that was merged fits no frame; rules want ntuple.
step_features() {
    set_feature "$1" large-receive-offload lro off || failed "$1 goes on merging packets (LRO)"
    set_feature "$1" rx-gro-hw rx-gro-hw off || failed "$1 goes on merging packets (rx-gro-hw)"
    set_feature "$1" generic-receive-offload gro off || cannot "the kernel goes on merging packets of $1 (GRO)"
    [ "${STEERING[$1]:-rules}" = rules ] || return 0
    # Some take rules without it: whether that is so is seen there.
    set_feature "$1" ntuple-filters ntuple on || cannot "$1 has no ntuple filters to switch on"
}

# set_feature INTERFACE AS-SHOWN AS-SET on|off
set_feature() {
    local found
    found=$(ask -k "$1" | sed -n "s/^[[:space:]]*$2: //p")
    case $found in
    "$4" | "$4 "*) return 0 ;;
    on | off | *'requested'*) ;;
    *)
        SAID="it is ${found:-unknown to it}"
        # What it does not know it does not do.
        [ -z "$found" ] && [ "$4" = off ]
        return
        ;;
    esac
    remember "feature@$1@$3" ethtool -K "$1" "$3" "${found%% *}"
    change ethtool -K "$1" "$3" "$4"
}

# scaling_table INTERFACE: the queues that the table of receive-side scaling names, in its order, one a line.
scaling_table() {
    ask -x "$1" | awk '/^RX flow hash indirection/ { table = 1; next }
        table && /^ *[0-9]+:/ { for (i = 2; i <= NF; i++) print $i; next } { table = 0 }'
}

# A table that names all queues alike is the driver's own. What somebody else has set is restored by weights: the same
# shares, in another order perhaps.
note_scaling() {
    local shares queues
    shares=$(scaling_table "$1" | sort -n | uniq -c | awk '{
        while (next_queue < $2) { printf "0 "; next_queue++ }
        printf "%s ", $1; next_queue = $2 + 1 }')
    [ -n "$shares" ] || return 0
    queues=$(wc -w <<<"$shares")
    if [ "$queues" = "$(channels_now "$1")" ] && is_even "$shares"; then
        remember "scaling@$1" ethtool -X "$1" default
    else
        remember "scaling@$1" ethtool -X "$1" weight "$shares"
    fi
}

# is_even SHARES: a table whose size is no multiple of the queues gives some of them one more.
is_even() {
    local most least
    most=$(tr ' ' '\n' <<<"$1" | grep . | sort -n | tail -n 1)
    least=$(tr ' ' '\n' <<<"$1" | grep . | sort -n | sed -n 1p)
    [ $((most - least)) -le 1 ]
}

step_scaling() {
    local interface=$1 kept highest
    kept=$(kernel_queues "$interface")
    highest=$(scaling_table "$interface" | sort -n | tail -n 1)
    # In a dry run the table is that of the queues that are there now.
    [ -z "$highest" ] || [ "$highest" -ge "$kept" ] || [ "$(channels_now "$interface")" != "${CHANNELS[$interface]}" ] ||
        return 0
    change ethtool -X "$interface" equal "$kept" ||
        failed "$interface cannot keep other traffic off the dedicated queues (ethtool -X)"
}

# rules_of INTERFACE: a line ID PORT MASK QUEUE for each rule for TCP over IPv4 that looks at the destination port.
rules_of() {
    ask -n "$1" | awk '
        function flush() { if (id != "" && tcp && port != "" && mask != "0xffff") print id, port, mask, queue; id = port = queue = ""; tcp = 0 }
        $1 == "Filter:" { flush(); id = $2 }
        /Rule Type: TCP over IPv4/ { tcp = 1 }
        /Dest port:/ { port = $3; mask = $5 }
        /Action: Direct to queue/ { queue = $NF }
        END { flush() }'
}

step_rules() {
    local interface=$1 word queue block known
    RULES=$(rules_of "$interface")
    known=$(awk 'NF { printf "%s%s", comma, $1; comma = "," }' <<<"$RULES")
    # shellcheck disable=SC2046 # words
    remember "rules@$interface" delete_rules "$interface" "${known:-none}" $(port_ranges "$interface")
    # shellcheck disable=SC2153 # of queues.sh
    for word in ${QUEUES[$interface]}; do
        queue=${word%%:*}
        for block in $(tr , ' ' <<<"${word##*:}"); do
            steer_block "$interface" "$queue" "${block%%/*}" "${block#*/}"
        done
    done
}

# The rules that were there when this step began.
RULES=

# steer_block INTERFACE QUEUE FIRST COUNT: one rule with a mask (its bits are those that do not matter), or one for each port
# where the card takes no mask.
steer_block() {
    local interface=$1 queue=$2 first=$3 count=$4 port
    if [ "$count" -gt 1 ]; then
        has_rule "$queue" "$first" $((count - 1)) && return 0
        # All of them may be there from an earlier run.
        if ! has_rule "$queue" "$first" 0; then
            change ethtool -N "$interface" flow-type tcp4 dst-port "$first" m "$(printf '0x%x' $((count - 1)))" \
                action "$queue" && return 0
        fi
        cannot "$interface takes no mask for ports: $count rules for $first to $((first + count - 1))"
    fi
    for ((port = first; port < first + count; port++)); do
        has_rule "$queue" "$port" 0 && continue
        change ethtool -N "$interface" flow-type tcp4 dst-port "$port" action "$queue" || {
            failed "$interface cannot steer port $port to queue $queue (ethtool -N)"
            return 0
        }
    done
}

# has_rule QUEUE PORT MASK
has_rule() {
    awk -v queue="$1" -v port="$2" -v mask="$(printf '0x%x' "$3")" \
        '$2 == port && $3 == mask && $4 == queue { found = 1 } END { exit !found }' <<<"$RULES"
}

# delete_rules INTERFACE ID,…|none RANGE…: rules for these ports, but for those that were there before.
delete_rules() {
    local interface=$1 known=,$2, id port mask queue range
    shift 2
    while read -r id port mask queue; do
        [[ $known != *,$id,* ]] || continue
        for range; do
            [[ $port -ge ${range%-*} && $port -le ${range#*-} ]] || continue
            ethtool -N "$interface" delete "$id" || return 1
            break
        done
    done < <(rules_of "$interface")
}

step_coalescing() {
    local interface=$1 wanted=${COALESCE[$1]:-} adaptive found words=()
    [ -n "$wanted" ] || return 0
    adaptive=$(ask -c "$interface" | sed -n 's/^Adaptive RX: \([a-z]*\).*/\1/p')
    found=$(ask -c "$interface" | sed -n 's/^rx-usecs:[[:space:]]*\([0-9]*\).*/\1/p')
    if [ -z "$found" ]; then
        SAID=''
        cannot "$interface has no rx-usecs to set"
        return 0
    fi
    [ "$adaptive" = on ] || [ "$found" != "$wanted" ] || return 0
    if [ "$adaptive" = on ]; then
        # It would change the figure again.
        remember "coalescing@$interface" ethtool -C "$interface" adaptive-rx on rx-usecs "$found"
        words=(adaptive-rx off)
    else
        remember "coalescing@$interface" ethtool -C "$interface" rx-usecs "$found"
    fi
    change ethtool -C "$interface" "${words[@]}" rx-usecs "$wanted" || cannot "$interface does not take rx-usecs $wanted"
}

# How often the kernel polls before it lets the card interrupt again: for busy polling.
step_deferring() {
    local interface=$1 times timeout
    [ -n "${DEFER[$interface]:-}" ] || return 0
    read -r times timeout <<<"${DEFER[$interface]}"
    set_file "deferring@$interface@irqs" "/sys/class/net/$interface/napi_defer_hard_irqs" "$times" ||
        cannot "$interface cannot defer interrupts"
    set_file "deferring@$interface@timeout" "/sys/class/net/$interface/gro_flush_timeout" "$timeout" ||
        cannot "$interface cannot defer interrupts"
}

# set_file KEY FILE VALUE
set_file() {
    local found
    SAID="there is no $2"
    [ -e "$2" ] || return 1
    found=$(cat "$2")
    [ "$found" != "$3" ] || return 0
    remember "$1" write "$2" "$found"
    change write "$2" "$3"
}

step_neighbours() {
    local interface=$1 word address mac found
    for word in ${NEIGHBOURS[$interface]}; do
        address=${word%%=*}
        mac=${word#*=}
        found=$(ip neighbour show to "$address" dev "$interface" nud permanent | sed -n 's/.*lladdr \([0-9a-f:]*\).*/\1/p')
        [ "$found" != "$mac" ] || continue
        if [ -n "$found" ]; then
            remember "neighbour@$interface@$address" ip neighbour replace "$address" lladdr "$found" dev "$interface" nud permanent
        else
            remember "neighbour@$interface@$address" ip neighbour flush to "$address" dev "$interface" nud all
        fi
        change ip neighbour replace "$address" lladdr "$mac" dev "$interface" nud permanent ||
            failed "$interface: $address cannot be made a neighbour"
    done
}

step_silence() {
    local table
    table=$(silence_table "$1")
    # Made before it is deleted, so that deleting it never fails.
    remember "silence@$1" nft "add table inet $table; delete table inet $table"
    change silence "$1" || failed "nftables does not take the rules for $1"
}

silence() { silence_rules "$1" | nft -f -; }

# The kernel takes ports for outgoing connections of others from a range that may have those of the links.
step_reserved_ports() {
    local file=$NIC_ROOT/proc/sys/net/ipv4/ip_local_reserved_ports interface found wanted
    found=$(cat "$file")
    wanted=$(
        {
            tr , '\n' <<<"$found"
            for interface in "${TOUCHED[@]}"; do port_ranges "$interface"; done
        } | grep . | expand_ports | sort -nu | compress_ports
    )
    set_file reserved-ports "$file" "$wanted" || cannot "the links' ports cannot be reserved"
}

# Ranges, one a line, to numbers and back; the kernel lists them just so.
expand_ports() { awk -F- '{ for (port = $1; port <= (NF > 1 ? $2 : $1); port++) print port }'; }

compress_ports() {
    awk 'function flush() { if (first != "") { printf "%s%s", comma, first == last ? first : first "-" last; comma = "," } }
        first != "" && $1 == last + 1 { last = $1; next }
        { flush(); first = last = $1 }
        END { flush() }'
}

step_huge_pages() {
    local file=$NIC_ROOT/proc/sys/vm/nr_hugepages got
    [ -n "$HUGE_PAGES" ] && [ "$(cat "$file")" -lt "$HUGE_PAGES" ] || return 0
    set_file huge-pages "$file" "$HUGE_PAGES" || cannot "huge pages cannot be had"
    [ "$DRY_RUN" = no ] || return 0
    got=$(cat "$file")
    SAID=''
    [ "$got" -ge "$HUGE_PAGES" ] || cannot "the kernel has only $got huge pages of $HUGE_PAGES: memory is in pieces, try again after a restart"
}

# step_interrupts CORE…: no interrupt may go to these cores, of whatever device. Some cannot be moved: those of a
# multi-queue disk, say, belong to their core.
step_interrupts() {
    local file irq found left stuck=0 mask
    for file in "$NIC_ROOT"/proc/irq/[0-9]*/smp_affinity_list; do
        [ -e "$file" ] || continue
        irq=${file%/*}
        irq=${irq##*/}
        found=$(cat "$file")
        left=$(tr , '\n' <<<"$found" | expand_ports | grep -vxF "$(printf '%s\n' "$@")" | compress_ports) || true
        [ -n "$left" ] || left=$(other_cores "$@")
        [ "$left" != "$(tr , '\n' <<<"$found" | expand_ports | compress_ports)" ] || continue
        [ -n "$left" ] || die "no core would be left for interrupts"
        remember "interrupt@@$irq" write "$file" "$found"
        change write "$file" "$left" || stuck=$((stuck + 1))
    done
    SAID=''
    [ "$stuck" -eq 0 ] || cannot "$stuck interrupts cannot be moved off the pinned cores"
    file=$NIC_ROOT/proc/irq/default_smp_affinity
    if [ -e "$file" ]; then
        mask=$(mask_without "$(cat "$file")" "$@")
        set_file interrupt-default "$file" "$mask" || cannot "interrupts of devices to come may go to the pinned cores"
    fi
    SAID=''
    ! runs irqbalance || cannot "irqbalance runs and moves interrupts: ban the pinned cores there (IRQBALANCE_BANNED_CPULIST)"
}

other_cores() {
    tr , '\n' <"$NIC_ROOT/sys/devices/system/cpu/online" | expand_ports | grep -vxF "$(printf '%s\n' "$@")" |
        compress_ports || true
}

# mask_without MASK CORE…: words of 32 bits in hexadecimal, the last one has core 0.
mask_without() {
    local words index core
    IFS=, read -ra words <<<"$1"
    shift
    for core; do
        index=$((${#words[@]} - 1 - core / 32))
        [ "$index" -ge 0 ] || continue
        words[index]=$(printf "%0${#words[index]}x" $((16#${words[index]} & ~(1 << core % 32))))
    done
    (IFS=, && printf '%s\n' "${words[*]}")
}

runs() {
    local file
    for file in "$NIC_ROOT"/proc/[0-9]*/comm; do
        [ "$(cat "$file" 2>/dev/null)" != "$1" ] || return 0
    done
    return 1
}
