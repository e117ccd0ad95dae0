#!/usr/bin/env bash
# Gives queues of network cards to the links between gateways and KVS, and gives them back.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=queues.sh
. "$ROOT/setup/queues.sh"
# shellcheck source-path=SCRIPTDIR source=nic-steps.sh
. "$ROOT/setup/nic-steps.sh"

usage() {
    cat <<'END'
Usage: setup/nic-queues.sh [--dry-run] [--state DIR] FILE INTERFACE…
       setup/nic-queues.sh --undo [--dry-run] [--state DIR]

Sets the interfaces up as FILE describes them (setup/examples/nic-queues.conf): channels, receive-side scaling off the
dedicated queues, rules that steer the links' ports to these, LRO and GRO off, coalescing, MTU, neighbours; the pinned
cores without interrupts; huge pages; and nftables' rules by which the kernel does not reset the links' connections.
What is as it should be already stays untouched, so it may be run again. Only interfaces that are named here and in FILE are
touched, and never the one of the default route. Needs root.

  --dry-run    prints what would be done, in its order, and does nothing
  --undo       restores what was found, also after a run that was interrupted
  --state DIR  where what was found is noted before it is changed (/run/hikyaku/nic-queues)
  --help       this text

Exit status 0: done. 1: nothing was done, for the reason that is said. 4: something that the links depend on could not
be done; what was done stays until --undo.
END
}

STATE_DIR=/run/hikyaku/nic-queues
DRY_RUN=no
UNDO=no
# Where /proc and /sys are looked for: another place in tests.
NIC_ROOT=${NIC_ROOT:-}
# What a card or the kernel could not do: of this the links depend on the first.
FAILED=()
CANNOT=()

main() {
    local words=()
    while [ $# -gt 0 ]; do
        case $1 in
        --dry-run) DRY_RUN=yes ;;
        --undo) UNDO=yes ;;
        --state)
            [[ ${2:-} == /* ]] || die "--state wants the full name of a directory"
            STATE_DIR=$2
            shift
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        -*)
            usage >&2
            exit 2
            ;;
        *) words+=("$1") ;;
        esac
        shift
    done
    if [ "$UNDO" = yes ]; then
        [ ${#words[@]} -eq 0 ] || die "--undo restores all that was changed: name nothing with it"
        require_root
        lock
        undo
        return
    fi
    [ ${#words[@]} -ge 2 ] || {
        usage >&2
        exit 2
    }
    read_description "${words[0]}"
    TOUCHED=("${words[@]:1}")
    local interface
    for interface in "${TOUCHED[@]}"; do may_touch "$interface" "${words[0]}"; done
    require_root
    lock
    apply
}
# The interfaces at hand.
TOUCHED=()

require_root() {
    local tool
    [ "$(id -u)" -eq 0 ] || die "this needs root"
    for tool in ip ethtool nft; do
        command -v "$tool" >/dev/null || die "there is no $tool; setup/install.sh installs what is missing"
    done
}

# Two at a time would note each other's work as found.
lock() {
    [ "$DRY_RUN" = no ] || return 0
    mkdir -p "$STATE_DIR"
    exec 8>"$STATE_DIR/lock"
    flock -n 8 || die "another nic-queues.sh is at work"
}

# may_touch INTERFACE FILE: ends if not.
may_touch() {
    local above
    [ -n "${QUEUES[$1]+described}" ] || die "$2 does not describe $1: it is left alone"
    [ -d "/sys/class/net/$1" ] || die "there is no interface $1"
    while read -r above; do
        ! is_default_route "$above" ||
            die "the default route goes by $above$([ "$above" = "$1" ] || say ", which is made of $1"): it is left alone"
    done < <(made_of "$1")
    if has_program "$1" && [ "$(channels_now "$1")" != "${CHANNELS[$1]}" ]; then
        die "an XDP program is attached to $1: stop what has it, for the channels are to change"
    fi
}

# made_of INTERFACE: it, and each bridge, bond or VLAN that it carries, however many lie between.
made_of() {
    local upper
    say "$1"
    for upper in /sys/class/net/"$1"/upper_*; do
        [ ! -e "$upper" ] || made_of "${upper##*/upper_}"
    done
}

is_default_route() {
    { ip -4 route show table all default && ip -6 route show table all default; } 2>/dev/null | has -w "dev $1"
}

has_program() { ip -o link show dev "$1" | has -E ' (prog/xdp|xdp[a-z]*) '; }

apply() {
    local interface core cores
    mapfile -t cores < <(pinned_cores)
    for core in "${cores[@]}"; do
        [ -d "$NIC_ROOT/sys/devices/system/cpu/cpu$core" ] || die "there is no core $core"
    done
    step_huge_pages
    for interface in "${TOUCHED[@]}"; do
        step_mtu "$interface"
        step_channels "$interface"
        step_features "$interface"
        if [ "${STEERING[$interface]:-rules}" = rules ]; then
            # Behind the features: with some drivers ntuple resets the table.
            step_scaling "$interface"
            step_rules "$interface"
        fi
        step_coalescing "$interface"
        step_deferring "$interface"
        step_neighbours "$interface"
        step_silence "$interface"
    done
    step_reserved_ports
    [ ${#cores[@]} -eq 0 ] || step_interrupts "${cores[@]}"
    report
}

# pinned_cores: of the interfaces at hand, each once.
pinned_cores() {
    local interface word
    for interface in "${TOUCHED[@]}"; do
        for word in ${QUEUES[$interface]}; do
            word=${word#*:}
            [ -z "${word%%:*}" ] || say "${word%%:*}"
        done
    done | sort -nu
}

report() {
    local line
    for line in "${CANNOT[@]}"; do say "note: $line"; done
    for line in "${FAILED[@]}"; do warn "$line"; done
    [ ${#FAILED[@]} -eq 0 ] || exit 4
}

# remember KEY COMMAND…: how what is found now is restored, noted before it is changed. What was found first counts,
# however often this runs. The notes are undone from the last to the first.
remember() {
    local key=$1 notes=$STATE_DIR/notes
    shift
    [ "$DRY_RUN" = no ] || return 0
    ! grep -qsF "$key"$'\t' "$notes" || return 0
    printf '%s\t%s\n' "$key" "$*" >>"$notes"
    sync "$notes"
}

# change COMMAND…: does it, or prints it. What it says when it fails is in SAID.
change() {
    if [ "$DRY_RUN" = yes ]; then
        case $1 in
        write) say "echo ${*:3} >$2" ;;
        silence) printf 'nft -f - <<END\n%s\nEND\n' "$(silence_rules "$2")" ;;
        *) say "$*" ;;
        esac
        return 0
    fi
    SAID=$("$@" 2>&1 >/dev/null) || {
        SAID=$(tr '\n' ' ' <<<"$SAID")
        return 1
    }
}
SAID=

# write FILE [VALUE]: into a file of the kernel's.
write() { printf '%s\n' "${2:-}" >"$1"; }

# From the last note to the first. What cannot be restored is said, and stays noted.
undo() {
    local notes=$STATE_DIR/notes key command words left=()
    [ -s "$notes" ] || {
        say "nothing was changed"
        return 0
    }
    while IFS=$'\t' read -r key command; do
        read -ra words <<<"$command"
        if [ -n "$(interface_in "$key")" ] && [ ! -d "/sys/class/net/$(interface_in "$key")" ]; then
            say "note: $(interface_in "$key") is gone: there is nothing to restore ($command)"
        elif ! restore "${words[@]}"; then
            warn "cannot restore: $command: $SAID"
            left=("$key"$'\t'"$command" "${left[@]}")
        fi
    done < <(tac "$notes")
    [ "$DRY_RUN" = no ] || return 0
    if [ ${#left[@]} -gt 0 ]; then
        printf '%s\n' "${left[@]}" >"$notes.new"
        mv "$notes.new" "$notes"
        die "what could not be restored stays noted in $notes"
    fi
    rm -f "$notes"
}

# A key is WHAT or WHAT@INTERFACE or WHAT@INTERFACE@OF-IT.
interface_in() {
    local rest=${1#*@}
    [ "$rest" = "$1" ] || say "${rest%%@*}"
}

# restore COMMAND…: only what `remember` is given anywhere.
restore() {
    case $1 in
    ethtool | ip | nft | write | delete_rules) change "$@" ;;
    *)
        SAID="it is no command of ours"
        return 1
        ;;
    esac
}

main "$@"
