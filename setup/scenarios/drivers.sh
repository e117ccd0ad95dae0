#!/usr/bin/env bash
# Every way to spread the work over threads: a gateway whose workers run everything, and one with
# workers for links and others for SMTP, with servers of two and of three workers, so that queues
# live at other ports than the first. Mail goes to three of thirty queues each. The split gateway is
# killed under load.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

MESSAGES=4000
QUEUES=30
# Each mail arrives once for each of its queues.
RECIPIENTS=3

main() {
    build_release
    (merged)
    (split)
}

merged() {
    begin_with 'drivers = "merged"' 'workers = 2'
    await_load || die "not all mail was accepted"
    end_clean
    say "clean with two workers that run everything"
}

split() {
    begin_with 'drivers = "split"' 'link_workers = 2' 'smtp_workers = 2'
    await_delivered $((MESSAGES * RECIPIENTS / 4))
    require_load
    local killed_at
    killed_at=$(date +%s%3N)
    kill_hard gateway
    start_gateway
    await_load || die "not all mail was accepted"
    end_clean --restart-at "$killed_at"
    say "clean with two workers for links and two for SMTP, killed under load"
}

# begin_with LINE…: a system under load whose gateway has these lines for its threads.
begin_with() {
    begin
    prepare_system
    set_queues "$QUEUES"
    set_table gateway threads "$@"
    add_key kvs-a workers 2
    add_key kvs-b workers 3
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    start_load "$MESSAGES" --domains "$QUEUES" --recipients "$RECIPIENTS" --pipeline
}

end_clean() {
    await_delivered $((MESSAGES * RECIPIENTS))
    await_idle 1
    judge "$@"
}

main "$@"
