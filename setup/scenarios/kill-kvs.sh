#!/usr/bin/env bash
# One of two KVS is killed under load: it stays away, and by min_sync = 1 the gateway goes on with the
# other; or it comes back empty, and by min_sync = 2 the gateway accepts nothing until it is filled.
# Nothing that was answered 250 is lost or altered.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

MESSAGES=20000

main() {
    build_release
    (stays_away)
    (comes_back)
}

stays_away() {
    begin_under_load 1 "$MESSAGES" $((MESSAGES / 2))
    kill_hard kvs-b
    end_clean
    say "clean although a KVS was killed and stayed away"
}

comes_back() {
    begin_under_load 2 "$MESSAGES" $((MESSAGES / 2))
    kill_hard kvs-b
    await 30 grep -q 'ports closed' "$SCRATCH/gateway.log" ||
        die "the gateway still accepts mail 30 s after it lost a KVS that min_sync asks for"
    start_kvs b
    end_clean
    say "clean although a KVS was killed and came back empty"
}

end_clean() {
    await_load || die "not all mail was accepted"
    await 120 sink_has "$MESSAGES" || warn "the sink does not have all mail after 120 s"
    judge --order 100
}

main "$@"
