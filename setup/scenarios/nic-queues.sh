#!/usr/bin/env bash
# Setting up the queues of interfaces, in a namespace: what is printed in a dry run, what is refused, and that all is as
# it was after --undo, with a card of files that can what real ones can or cannot, and with a virtual interface. Needs
# root.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../network.sh
. "$ROOT/setup/network.sh"

HERE=hkq$$
# The card's files, and those of a machine: interrupts, cores, huge pages.
export CARD='' NIC_ROOT=''

main() {
    local tool
    for tool in ip ethtool nft; do
        command -v "$tool" >/dev/null || skip "there is no $tool"
    done
    can_have_namespaces || skip "network namespaces need root"
    begin
    trap 'tidy' EXIT
    make_interfaces
    describe
    card_new
    refuses_what_it_must_not_touch
    names_every_mistake
    prints_what_it_would_do
    sets_a_card_up_and_restores_it
    goes_on_where_it_was_interrupted
    copes_with_what_cards_cannot
    leaves_the_rules_of_others
    restores_a_table_that_was_set
    checks_that_find_something
    sets_a_virtual_interface_up_and_restores_it
}

tidy() {
    local status=$?
    set +e
    ip netns del "$HERE" 2>/dev/null
    finish "$status"
}

here() { ip netns exec "$HERE" "$@"; }

# nic OPTION…: the script in the namespace, with the card in the place of ethtool where there is one.
nic() {
    here env ${CARD:+PATH="$SCRATCH/bin:$PATH"} "$ROOT/setup/nic-queues.sh" --state "$SCRATCH/state" "$@"
}

# card0 is described, other0 is not, route0 has the default route; below0 is part of a bridge that has one.
make_interfaces() {
    ip netns add "$HERE"
    here ip link set lo up
    here ip link add card0 numtxqueues 4 numrxqueues 4 type veth peer name peer0
    here ip link add other0 type veth peer name other1
    here ip link add route0 type veth peer name route1
    here ip link add below0 type veth peer name below1
    here ip address add 10.0.1.1/24 dev card0
    here ip address add 10.0.9.1/24 dev route0
    here ip link set card0 up
    here ip link set peer0 up
    here ip link set route0 up
    here ip link set route1 up
    here ip route add default via 10.0.9.2
}

describe() {
    cat >"$SCRATCH/queues.conf" <<'END'
huge-pages 16
interface card0
    channels 4
    mtu 3000
    coalesce 0
    queue 2 core 2 ports 61440/64
    queue 3 core 3 ports 61504/64 7001/1   # two blocks
    neighbour 10.0.1.2 02:00:00:00:00:02
interface route0
    channels 2
    queue 1 ports 61440/64
interface below0
    channels 2
    queue 1 ports 61440/64
interface none0
    channels 2
    queue 1 ports 61440/64
END
}

refuses_what_it_must_not_touch() {
    everything >"$SCRATCH/before"
    assert_refused 'does not describe other0' nic "$SCRATCH/queues.conf" card0 other0
    assert_refused 'does not describe lo' nic "$SCRATCH/queues.conf" lo
    assert_refused 'default route goes by route0: it is left alone' nic "$SCRATCH/queues.conf" card0 route0
    assert_refused 'no interface none0' nic "$SCRATCH/queues.conf" none0
    assert_refused Usage: nic "$SCRATCH/queues.conf"
    assert_refused 'name nothing with it' nic --undo "$SCRATCH/queues.conf"
    here ip route del default
    here ip link add bridge0 type bridge
    here ip link set below0 master bridge0
    here ip link set bridge0 up
    here ip -6 route add default dev bridge0
    assert_refused 'goes by bridge0, which is made of below0' nic "$SCRATCH/queues.conf" below0
    here ip link del bridge0
    here ip route add default via 10.0.9.2
    everything | diff "$SCRATCH/before" - || die "something was touched that must not be"
    # It looks at the route, and not only at names.
    here ip route del default
    nic --dry-run "$SCRATCH/queues.conf" route0 >/dev/null || die "refused although no default route goes there"
    here ip route add default via 10.0.9.2
}

names_every_mistake() {
    printf '%s\n' 'channels 4' 'interface a' 'channels none' 'queue 1 ports 7001/3' 'queue 300 ports 7001/1' \
        'queue 2 core x ports 7001/1' 'queue 3 ports' 'queue 2 ports 64/64 100/1' 'mtu 1' 'speed 10' \
        'neighbour 10.0.0.1 nobody' 'interface a' 'steering by-hand' 'huge-pages many' >"$SCRATCH/wrong.conf"
    assert_refused 'not understood' nic "$SCRATCH/wrong.conf" a
    for line in 1 3 4 5 6 7 8 9 10 11 12 13 14; do
        grep -q "wrong.conf:$line: " "$SCRATCH/said" || die "the mistake in line $line is not named"
    done
    printf 'interface a\n channels 4\n queue 0 ports 7001/1\n' >"$SCRATCH/wrong.conf"
    assert_refused 'must be the last ones' nic "$SCRATCH/wrong.conf" a
    printf 'interface a\n channels 2\n queue 4 ports 7001/1\n' >"$SCRATCH/wrong.conf"
    assert_refused 'beyond the 2 channels' nic "$SCRATCH/wrong.conf" a
}

# card_new [QUIRK…]: a card with 8 channels, everything on, and somebody else's rule.
card_new() {
    CARD=$SCRATCH/card
    NIC_ROOT=$SCRATCH/machine
    rm -rf "$CARD" "$NIC_ROOT" "$SCRATCH/state"
    mkdir -p "$CARD" "$SCRATCH/bin" "$NIC_ROOT/proc/irq/30" "$NIC_ROOT/proc/irq/31" "$NIC_ROOT/proc/sys/vm" \
        "$NIC_ROOT/proc/sys/net/ipv4" "$NIC_ROOT/sys/devices/system/cpu/cpu2" "$NIC_ROOT/sys/devices/system/cpu/cpu3"
    cp "$ROOT/setup/scenarios/card.sh" "$SCRATCH/bin/ethtool"
    chmod +x "$SCRATCH/bin/ethtool"
    printf '%s\n' "$@" >"$CARD/quirks"
    say 8 >"$CARD/channels"
    printf '%s\n' 0 1 2 3 4 5 6 7 0 1 2 3 4 5 6 7 >"$CARD/table"
    say '1000 80 0x0 1' >"$CARD/rules"
    printf '%s: %s\n' generic-receive-offload on large-receive-offload on rx-gro-hw 'off [fixed]' \
        ntuple-filters off >"$CARD/features"
    printf 'Coalesce parameters for card:\nAdaptive RX: on  TX: on\nrx-usecs:\t50\nrx-frames:\tn/a\n' >"$CARD/coalescing"
    say 0-3 >"$NIC_ROOT/proc/irq/30/smp_affinity_list"
    say 2 >"$NIC_ROOT/proc/irq/31/smp_affinity_list"
    say ff >"$NIC_ROOT/proc/irq/default_smp_affinity"
    say 0-7 >"$NIC_ROOT/sys/devices/system/cpu/online"
    say 4 >"$NIC_ROOT/proc/sys/vm/nr_hugepages"
    say 5000,61500-61510 >"$NIC_ROOT/proc/sys/net/ipv4/ip_local_reserved_ports"
}

# What there is to restore. The order of the table is none of it.
everything() {
    [ -z "$CARD" ] || (cd "$CARD" && head -n 50 channels rules features coalescing && sort table)
    [ -z "$NIC_ROOT" ] || (cd "$NIC_ROOT" && grep -r . proc | sort)
    here ip -o link show | sed 's/ state [A-Z]* / /'
    here ip neighbour show nud permanent
    here ip -4 route show table all
    here nft list ruleset
    here cat /proc/sys/net/ipv4/ip_local_reserved_ports
    [ -n "$CARD" ] || here ethtool -k card0
}

prints_what_it_would_do() {
    everything >"$SCRATCH/before"
    nic --dry-run "$SCRATCH/queues.conf" card0 | sed "s|$NIC_ROOT||" >"$SCRATCH/printed"
    diff - "$SCRATCH/printed" <<'EXPECTED' || die "the dry run prints something else"
echo 16 >/proc/sys/vm/nr_hugepages
ip link set dev card0 mtu 3000
ethtool -X card0 equal 2
ethtool -L card0 combined 4
ethtool -K card0 lro off
ethtool -K card0 gro off
ethtool -K card0 ntuple on
ethtool -X card0 equal 2
ethtool -N card0 flow-type tcp4 dst-port 61440 m 0x3f action 2
ethtool -N card0 flow-type tcp4 dst-port 61504 m 0x3f action 3
ethtool -N card0 flow-type tcp4 dst-port 7001 action 3
ethtool -C card0 adaptive-rx off rx-usecs 0
ip neighbour replace 10.0.1.2 lladdr 02:00:00:00:00:02 dev card0 nud permanent
nft -f - <<END
add table inet hikyaku_card0
delete table inet hikyaku_card0
table inet hikyaku_card0 {
    chain output {
        type filter hook output priority filter; policy accept;
        oifname "card0" tcp sport { 61440-61503,61504-61567,7001 } tcp flags & (rst | ack) == rst counter drop
    }
}
END
echo 5000,7001,61440-61567 >/proc/sys/net/ipv4/ip_local_reserved_ports
echo 0-1 >/proc/irq/30/smp_affinity_list
echo 0-1,4-7 >/proc/irq/31/smp_affinity_list
echo f3 >/proc/irq/default_smp_affinity
EXPECTED
    everything | diff "$SCRATCH/before" - || die "a dry run changes something"
    [ ! -e "$CARD/log" ] || die "a dry run uses ethtool"
}

# is_set_up [RULES]: whether the card and the machine are as the description says.
is_set_up() {
    [ "$(cat "$CARD/channels")" = 4 ] && [ "$(sort -u "$CARD/table" | paste -sd ' ')" = '0 1' ] &&
        [ "$(wc -l <"$CARD/rules")" -eq "${1:-4}" ] && grep -q '^rx-usecs:	0$' "$CARD/coalescing" &&
        [ "$(here cat /sys/class/net/card0/mtu)" = 3000 ] &&
        here nft list table inet hikyaku_card0 | has '7001, 61440-' &&
        here ip neighbour show to 10.0.1.2 | has PERMANENT
}

sets_a_card_up_and_restores_it() {
    local quirk
    for quirk in none resets; do
        card_new "$quirk"
        everything >"$SCRATCH/before"
        nic "$SCRATCH/queues.conf" card0 || die "the card is not set up ($quirk)"
        is_set_up || die "the card is not as it should be ($quirk)"
        everything >"$SCRATCH/set"
        : >"$CARD/log"
        nic "$SCRATCH/queues.conf" card0 || die "the card is not set up again"
        [ ! -s "$CARD/log" ] || die "what is set up is touched again: $(cat "$CARD/log")"
        everything | diff "$SCRATCH/set" - || die "the second time changes something"
        restores
    done
}

restores() {
    nic --undo || die "not everything is restored"
    everything | diff "$SCRATCH/before" - || die "something is not as it was"
    nic --undo | has 'nothing was changed' || die "there is something to undo still"
}

# Killed at each of its changes in turn, what was changed can be undone, and the rest be done.
goes_on_where_it_was_interrupted() {
    local step
    for step in 1 2 3 4 6 8 9; do
        card_new resets
        everything >"$SCRATCH/before"
        killed_at "$step"
        restores
        card_new resets
        killed_at "$step"
        nic "$SCRATCH/queues.conf" card0 || die "it does not go on after being killed at change $step"
        is_set_up || die "the card is not as it should be after being killed at change $step"
        restores
    done
}

# killed_at N: the script, killed by the card at its Nth change, which is half done or not.
killed_at() {
    cat >"$SCRATCH/bin/ethtool" <<END
#!/usr/bin/env bash
case \$1 in
-[LXNKC])
    echo >>"$CARD/count"
    if [ "\$(wc -l <"$CARD/count")" -eq $1 ]; then
        [ $(($1 % 2)) -eq 0 ] || "$ROOT/setup/scenarios/card.sh" "\$@"
        kill -KILL "\$(cat "$CARD/victim")"
        exit 1
    fi
    ;;
esac
exec "$ROOT/setup/scenarios/card.sh" "\$@"
END
    # shellcheck disable=SC2016 # expanded there
    ! here env PATH="$SCRATCH/bin:$PATH" bash -c 'echo $$ >"$CARD/victim"; exec "$@"' - \
        "$ROOT/setup/nic-queues.sh" --state "$SCRATCH/state" "$SCRATCH/queues.conf" card0 2>/dev/null ||
        die "it was not killed at change $1"
    cp "$ROOT/setup/scenarios/card.sh" "$SCRATCH/bin/ethtool"
}

copes_with_what_cards_cannot() {
    local status=0
    card_new no-masks
    everything >"$SCRATCH/before"
    sed 's|/64|/4|g' "$SCRATCH/queues.conf" >"$SCRATCH/small.conf"
    nic "$SCRATCH/small.conf" card0 >"$SCRATCH/said" || die "a card without masks is not set up"
    grep -q 'takes no mask for ports: 4 rules for 61440 to 61443' "$SCRATCH/said" || die "nothing is said of masks"
    is_set_up 10 || die "a card without masks does not have a rule for each port"
    nic "$SCRATCH/small.conf" card0 >/dev/null || die "the second time fails without masks"
    is_set_up 10 || die "the second time makes other rules without masks"
    restores
    for quirk in no-rules no-table; do
        card_new "$quirk"
        everything >"$SCRATCH/before"
        status=0
        nic "$SCRATCH/queues.conf" card0 >/dev/null 2>"$SCRATCH/said" || status=$?
        [ "$status" -eq 4 ] || die "status $status of a card with $quirk"
        grep -q 'cannot steer port\|cannot keep other traffic off' "$SCRATCH/said" || die "nothing is said of $quirk"
        restores
    done
}

leaves_the_rules_of_others() {
    card_new
    nic "$SCRATCH/queues.conf" card0
    # Somebody adds one meanwhile, and has had one for a port of ours before.
    say '900 81 0x0 1' >>"$CARD/rules"
    nic --undo
    [ "$(sort "$CARD/rules" | paste -sd ,)" = '1000 80 0x0 1,900 81 0x0 1' ] || die "rules of others are gone, or ours are not"
}

restores_a_table_that_was_set() {
    card_new
    printf '%s\n' 0 0 0 0 0 0 0 0 0 0 0 0 1 1 1 3 >"$CARD/table"
    touch "$CARD/set"
    everything >"$SCRATCH/before"
    nic "$SCRATCH/queues.conf" card0
    is_set_up || die "the card is not as it should be"
    restores
}

# The checks of this script notice what is wrong.
checks_that_find_something() {
    card_new
    everything >"$SCRATCH/before"
    nic "$SCRATCH/queues.conf" card0
    say 1 >"$CARD/channels"
    ! is_set_up || die "the check of what is set up finds nothing"
    # Notes that are lost cannot be undone.
    sed -i /mtu/d "$SCRATCH/state/notes"
    nic --undo
    ! everything | diff "$SCRATCH/before" - >/dev/null || die "the check of what is restored finds nothing"
    here ip link set card0 mtu 1500
    # What is in the notes and no command of ours is not run.
    say "odd"$'\t'"touch $SCRATCH/touched" >"$SCRATCH/state/notes"
    assert_refused 'no command of ours' nic --undo
    [ ! -e "$SCRATCH/touched" ] || die "whatever is in the notes is run"
}

sets_a_virtual_interface_up_and_restores_it() {
    CARD=
    NIC_ROOT=
    rm -rf "$SCRATCH/state"
    sed -e '/^huge-pages/d; s/ core [0-9]*//; /coalesce/d' -e '/interface card0/a steering elsewhere' \
        "$SCRATCH/queues.conf" >"$SCRATCH/virtual.conf"
    here ethtool -K card0 gro on
    here ip neighbour replace 10.0.1.2 lladdr 02:00:00:00:00:77 dev card0 nud permanent
    everything >"$SCRATCH/before"
    nic "$SCRATCH/virtual.conf" card0 || die "the virtual interface is not set up"
    here ip -o link show card0 | has 'mtu 3000' || die "the virtual interface has another MTU"
    here ip neighbour show to 10.0.1.2 | has 02:00:00:00:00:02 || die "the neighbour is another one"
    here ethtool -k card0 | has 'generic-receive-offload: off' || die "the virtual interface merges packets"
    [ "$(here cat /proc/sys/net/ipv4/ip_local_reserved_ports)" = 7001,61440-61567 ] || die "ports are not reserved"
    restores
    # Without rules of its own it cannot be set up for steering by rules.
    sed -i '/^steering/d' "$SCRATCH/virtual.conf"
    local status=0
    nic "$SCRATCH/virtual.conf" card0 >"$SCRATCH/said" 2>&1 || status=$?
    [ "$status" -eq 4 ] || die "status $status for an interface that cannot steer"
    restores
}

main "$@"
