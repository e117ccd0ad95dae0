#!/usr/bin/env bash
# A network card of files, in the place of ethtool, for tests: it answers as ethtool does with a driver that can
# everything, but for what its quirks say. Its files are in $CARD: channels, table, rules, features, coalescing, and quirks:
#   no-masks     rules take no masks          no-rules    nor any rules at all
#   resets       ntuple resets the table      no-table    there is none
# Each change is noted in the file log.
set -euo pipefail

fail() {
    printf 'netlink error: %s\n' "$*" >&2
    exit 1
}

has_quirk() { grep -qx "$1" "$CARD/quirks" 2>/dev/null; }

default_table() {
    local queue
    for ((queue = 0; queue < 16; queue++)); do echo $((queue % $(cat "$CARD/channels"))); done >"$CARD/table"
    rm -f "$CARD/set"
}

show_channels() {
    cat <<END
Channel parameters for card:
Pre-set maximums:
RX:		n/a
TX:		n/a
Other:		1
Combined:	16
Current hardware settings:
RX:		n/a
TX:		n/a
Other:		1
Combined:	$(cat "$CARD/channels")
END
}

set_channels() {
    [[ $1 = combined && $2 -le 16 ]] || fail "Invalid argument"
    # The kernel refuses to take away what a table that was set names.
    [ ! -e "$CARD/set" ] || [ "$(sort -n "$CARD/table" | tail -n 1)" -lt "$2" ] ||
        fail "requested channel counts are too low for existing indirection table settings"
    echo "$2" >"$CARD/channels"
    [ -e "$CARD/set" ] || default_table
}

show_table() {
    ! has_quirk no-table || fail "Operation not supported"
    echo "RX flow hash indirection table for card with $(cat "$CARD/channels") RX ring(s):"
    paste -sd ' ' "$CARD/table" | fold -w 16 | awk '{ printf "%5d:  %s\n", (NR - 1) * 8, $0 }'
    printf 'RSS hash key:\n6d:5a\nRSS hash function:\n    toeplitz: on\n'
}

set_table() {
    local index queue share
    ! has_quirk no-table || fail "Operation not supported"
    case $1 in
    default) default_table ;;
    equal)
        [ "$2" -le "$(cat "$CARD/channels")" ] || fail "Invalid argument"
        for ((index = 0; index < 16; index++)); do echo $((index % $2)); done >"$CARD/table"
        touch "$CARD/set"
        ;;
    weight)
        shift
        [ $# -le "$(cat "$CARD/channels")" ] || fail "Invalid argument"
        queue=0
        for share; do
            for ((index = 0; index < share; index++)); do echo "$queue"; done
            queue=$((queue + 1))
        done >"$CARD/table"
        touch "$CARD/set"
        ;;
    esac
}

show_rules() {
    local id port mask queue
    printf '%s RX rings available\nTotal %s rules\n\n' "$(cat "$CARD/channels")" "$(wc -l <"$CARD/rules")"
    while read -r id port mask queue; do
        cat <<END
Filter: $id
	Rule Type: TCP over IPv4
	Src IP addr: 0.0.0.0 mask: 255.255.255.255
	Dest IP addr: 0.0.0.0 mask: 255.255.255.255
	TOS: 0x0 mask: 0xff
	Src port: 0 mask: 0xffff
	Dest port: $port mask: $mask
	Action: Direct to queue $queue

END
    done <"$CARD/rules"
}

set_rule() {
    local mask=0x0 id
    if [ "$1" = delete ]; then
        grep -q "^$2 " "$CARD/rules" || fail "no such rule"
        sed -i "/^$2 /d" "$CARD/rules"
        return
    fi
    ! has_quirk no-rules || fail "Operation not supported"
    # flow-type tcp4 dst-port PORT [m MASK] action QUEUE
    if [ "$5" = m ]; then
        ! has_quirk no-masks || fail "Invalid argument"
        mask=$6
        set -- "$1" "$2" "$3" "$4" "$7" "$8"
    fi
    [ "$6" -lt "$(cat "$CARD/channels")" ] || fail "Invalid argument"
    id=$(awk 'BEGIN { id = 1024 } $1 < id { id = $1 } END { print id - 1 }' "$CARD/rules")
    echo "$id $4 $mask $6" >>"$CARD/rules"
    echo "Added rule with ID $id"
}

set_features() {
    local name
    while [ $# -gt 1 ]; do
        case $1 in
        gro) name=generic-receive-offload ;;
        lro) name=large-receive-offload ;;
        ntuple) name=ntuple-filters ;;
        *) name=$1 ;;
        esac
        sed -i "s/^$name: .*/$name: $2/" "$CARD/features"
        [ "$1 $2" != 'ntuple on' ] || ! has_quirk resets || default_table
        shift 2
    done
}

set_coalescing() {
    while [ $# -gt 1 ]; do
        case $1 in
        adaptive-rx) sed -i "s/^Adaptive RX: [a-z]*/Adaptive RX: $2/" "$CARD/coalescing" ;;
        rx-usecs) sed -i "s/^rx-usecs:.*/rx-usecs:	$2/" "$CARD/coalescing" ;;
        esac
        shift 2
    done
}

option=$1
shift 2
case $option in
-[LXNKC]) echo "$option $*" >>"$CARD/log" ;;
esac
case $option in
-l) show_channels ;;
-L) set_channels "$@" ;;
-x) show_table ;;
-X) set_table "$@" ;;
-n) show_rules ;;
-N) set_rule "$@" ;;
-k) sed '1i Features for card:' "$CARD/features" ;;
-K) set_features "$@" ;;
-c) cat "$CARD/coalescing" ;;
-C) set_coalescing "$@" ;;
esac
