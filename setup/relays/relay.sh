# shellcheck shell=bash
# What the relays for loadgen compare have in common. A relay is a script that is called as
#     SCRIPT --describe                     prints its version and how it is set up, a line each; or fails and says why it is not there
#     SCRIPT LISTEN NEXT-HOP DIRECTORY      relays from the one address to the other until SIGTERM, with its files in there
# To be sourced; then `describe` and `relay` are defined, and main_relay is called.
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

main_relay() {
    if [ "${1:-}" = --describe ] && [ $# -eq 1 ]; then
        describe
        return
    fi
    [ $# -eq 3 ] || die "wants --describe, or LISTEN NEXT-HOP DIRECTORY"
    relay "$@"
}

require_root() { [ "$(id -u)" -eq 0 ] || die "it wants root"; }

# open_way DIRECTORY: lets programs that give up root through to it; the scratch directory is ours and goes in the end.
open_way() {
    local at=$1
    while [ "$at" != / ] && [ "$(stat -c %u "$at")" -eq "$(id -u)" ]; do
        [ -n "$(find "$at" -maxdepth 0 -perm -o=x)" ] || chmod o+x "$at"
        at=$(dirname "$at")
    done
}

# Processes that end with this script.
CHILDREN=()

# run_child NAME COMMAND…: starts it with its words in the relay's log; it ends with this script, whatever becomes of that.
run_child() {
    local name=$1
    shift
    setpriv --pdeathsig TERM "$@" </dev/null &
    CHILDREN+=("$!")
}

# Waits until SIGTERM, then asks all children to end and waits for them.
serve() {
    trap 'end_children; exit 0' TERM INT
    wait "${CHILDREN[@]}"
    die "a program has ended"
}

end_children() {
    kill -TERM "${CHILDREN[@]}" 2>/dev/null || true
    wait "${CHILDREN[@]}" 2>/dev/null || true
}
