#!/usr/bin/env bash
# Hikyaku as a relay, for loadgen compare: a gateway and two backup queue servers, on the same cores as everybody else.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=relay.sh
. "$(dirname "$0")/relay.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

describe() {
    if [ ! -x "$BIN/gateway" ] || [ ! -x "$BIN/kvs" ]; then die "it is not built"; fi
    say "$("$BIN/gateway" --version)"
    say "a gateway and two backup servers, as setup/examples has them: 250 when three processes have the message"
}

relay() {
    local name
    # Read by prepare_system.
    # shellcheck disable=SC2034
    SCRATCH=$3
    prepare_system
    GATEWAY=$1
    SINK=$2
    sed -i -e "s|^listen = .*|listen = [\"$GATEWAY\"]|" \
        -e "s|^next_hops = .*|next_hops = [\"$SINK\"]|" "$SCRATCH/gateway.toml"
    for name in a b; do
        run_child "kvs-$name" "$BIN/kvs" --config "$SCRATCH/kvs-$name.toml"
    done
    run_child gateway "$BIN/gateway" --config "$SCRATCH/gateway.toml"
    serve
}

main_relay "$@"
