#!/usr/bin/env bash
# Starts a gateway or a KVS on cores and queues of its own.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=queues.sh
. "$ROOT/setup/queues.sh"

usage() {
    cat <<'END'
Usage: setup/launch.sh [--description FILE] [--user USER] gateway|kvs --config CONFIG [ARGUMENT…]

Checks CONFIG, holds it against the description of the interfaces (queues, ports, cores), allows as much locked memory
as the bypass takes, and becomes the program. Its workers are pinned by `cores` in CONFIG; all its other threads are
kept off the cores that the description pins.

  --description FILE  what setup/nic-queues.sh was given; without it nothing is compared
  --user USER         become that user, with no privileges but those of the bypass and, for a gateway, of ports below
                      1024 (only root can; a service manager does it by itself)
  --help              this text

The programs are those in $HIKYAKU_BIN, or in bin/ beside setup/, or of `cargo build --release`. Exit status 2 for
mistakes in CONFIG or where it does not fit the description; else that of the program.
END
}

DESCRIPTION=
RUN_AS=
PROGRAM=
CONFIG=
# Local ports of each of a gateway's queues: PORTS_PER_QUEUE of the program's settings.
PORTS_PER_QUEUE=64
# What the bypass takes: sockets and wake-ups; programs and links; the filter and its map.
PRIVILEGES=(net_raw net_admin bpf)

main() {
    local arguments
    while [ $# -gt 0 ]; do
        case $1 in
        --description | --user)
            [ -n "${2:-}" ] || die "$1 wants a value"
            if [ "$1" = --user ]; then RUN_AS=$2; else DESCRIPTION=$2; fi
            shift 2
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        gateway | kvs)
            PROGRAM=$1
            break
            ;;
        *) break ;;
        esac
    done
    [[ -n $PROGRAM && ${2:-} = --config && -n ${3:-} ]] || {
        usage >&2
        exit 2
    }
    CONFIG=$3
    arguments=("${@:4}")
    find_program
    # It names each mistake, and has the exit status for them.
    "$EXECUTABLE" --config "$CONFIG" --check
    # Over kernel TCP no queue is anybody's.
    [ -z "$DESCRIPTION" ] || [[ ! $(setting transport) =~ ^(afxdp|auto)$ ]] || compare
    allow_locked_memory
    become "${arguments[@]}"
}
EXECUTABLE=

find_program() {
    local directory
    for directory in ${HIKYAKU_BIN:+"$HIKYAKU_BIN"} "$ROOT/bin" "$BIN"; do
        EXECUTABLE=$directory/$PROGRAM
        [ ! -x "$EXECUTABLE" ] || return 0
    done
    die "there is no program $PROGRAM; cargo build --release makes it"
}

# compare: what the program takes of interfaces has to be what they give it. What does not reach its queue is lost.
compare() {
    local mistakes=0 name queues ports index queue core cores
    read_description "$DESCRIPTION"
    mapfile -t cores < <(setting cores | tr , '\n' | expand)
    while read -r name queues ports; do
        [ -n "${QUEUES[$name]:-}" ] || {
            mistake "the interface $name is not described there"
            continue
        }
        index=0
        for queue in $(tr , '\n' <<<"$queues" | expand); do
            if [ "$PROGRAM" = gateway ]; then
                gets "$name" "$queue" $((ports + PORTS_PER_QUEUE * index)) "$PORTS_PER_QUEUE"
            else
                gets "$name" "$queue" $(($(listening_port) + index)) 1
            fi
            core=$(core_of "$name" "$queue")
            if [ -n "$core" ] && [ "$core" != "${cores[index]:-}" ]; then
                mistake "worker $index has queue $queue of $name, whose core is $core there and ${cores[index]:-none} in \`cores\`"
            fi
            index=$((index + 1))
        done
    done < <(interfaces)
    [ "$mistakes" -eq 0 ] || exit 2
}

mistake() {
    warn "$CONFIG does not fit $DESCRIPTION: $*"
    mistakes=$((mistakes + 1))
}

# gets INTERFACE QUEUE FIRST COUNT: whether all of these ports lead to that queue.
gets() {
    local word block port
    for ((port = $3; port < $3 + $4; port++)); do
        for word in ${QUEUES[$1]}; do
            for block in $(tr , ' ' <<<"${word##*:}"); do
                [[ $port -lt ${block%%/*} || $port -ge $((${block%%/*} + ${block#*/})) ]] || {
                    [ "${word%%:*}" != "$2" ] || continue 3
                    mistake "port $port of $1 goes to queue ${word%%:*}, and queue $2 waits for it"
                    return 0
                }
            done
        done
        mistake "port $port of $1 goes to no queue of its own, and queue $2 waits for it"
        return 0
    done
}

core_of() {
    local word rest
    for word in ${QUEUES[$1]}; do
        rest=${word#*:}
        [ "${word%%:*}" != "$2" ] || say "${rest%%:*}"
    done
}

# interfaces: a line NAME QUEUES PORTS for each [[interface]] of the configuration, which was found to be sound.
interfaces() {
    awk '
        function flush() { if (name != "") print name, queues, ports; name = queues = ""; ports = 0 }
        { sub(/#.*/, ""); gsub(/[" \t_]/, "") }
        /^\[/ { flush(); mine = /^\[\[interface\]\]/ }
        !mine { next }
        /^name=/ { name = substr($0, 6) }
        /^nicqueues=/ { queues = substr($0, 11) }
        /^ports=/ { ports = substr($0, 7) }
        END { flush() }' <(sed 's/nic_queues/nicqueues/; /^[[:space:]]*name/s/_/\x01/g' "$CONFIG") | tr '\001' _
}

# setting KEY: its value without quotes, wherever it is for the first time.
setting() { sed -n "s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*\"\\([^\"]*\\)\".*/\\1/p" "$CONFIG" | sed -n 1p; }

listening_port() { sed -n 's/^[[:space:]]*listen[[:space:]]*=.*:\([0-9]*\)".*/\1/p' "$CONFIG" | sed -n 1p; }

# Ranges, one a line, to numbers.
expand() { awk -F- 'NF { for (it = $1; it <= (NF > 1 ? $2 : $1); it++) print it }'; }

# The memory of frames is locked, and counts against a bound, but for who has CAP_IPC_LOCK.
allow_locked_memory() {
    ! ulimit -l unlimited 2>/dev/null || return 0
    [ "$(ulimit -l)" != unlimited ] || return 0
    if has_ipc_lock; then
        PRIVILEGES+=(ipc_lock)
        return 0
    fi
    warn "at most $(ulimit -l) KiB may be locked: if that is too little for the frames, the bypass is not taken
(LimitMEMLOCK=infinity in a unit, memlock in limits.conf, or root)"
}

has_ipc_lock() { [ $((0x$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status) >> 14 & 1)) -eq 1 ]; }

# become ARGUMENT…: the program in the place of this one.
become() {
    local command=("$EXECUTABLE" --config "$CONFIG" "$@") others list
    others=$(other_cores)
    if [ -n "$others" ]; then
        command=(taskset -c "$others" "${command[@]}")
    fi
    if [ -n "$RUN_AS" ]; then
        [ "$(id -u)" -eq 0 ] || die "only root can become $RUN_AS"
        id "$RUN_AS" >/dev/null 2>&1 || die "there is no user $RUN_AS"
        [ "$PROGRAM" = kvs ] || PRIVILEGES+=(net_bind_service)
        list=$(IFS=, && printf '%s' "${PRIVILEGES[*]/#/+}")
        command=(setpriv --reuid "$RUN_AS" --regid "$(id -g "$RUN_AS")" --init-groups --inh-caps "-all,$list"
            --ambient-caps "-all,$list" --bounding-set "-all,$list" --no-new-privs "${command[@]}")
    fi
    exec "${command[@]}"
}

# other_cores: those of this process but for the pinned ones; none if there would be none left, or none is pinned.
# Of all interfaces: what is pinned there may be the other program's.
other_cores() {
    local words word rest pinned=()
    for words in "${QUEUES[@]}"; do
        for word in $words; do
            rest=${word#*:}
            pinned+=("${rest%%:*}")
        done
    done
    [ -n "${pinned[*]:-}" ] || return 0
    taskset -cp $$ | sed 's/.*: //' | tr , '\n' | expand | grep -vxF "$(printf '%s\n' "${pinned[@]}" | grep .)" |
        paste -sd , - || true
}

main "$@"
