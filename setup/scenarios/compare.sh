#!/usr/bin/env bash
# The smallest comparison with peers: the report has a row for each that is there, names who is missing, and finds out a
# store that does not store and a relay that does not relay. Nothing stays of one that is interrupted.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"

main() {
    build_release
    begin
    all_have_rows
    who_lies_is_found_out
    relays_end_whenever_they_are_told_to
    nothing_stays_of_an_interrupted_comparison
}

all_have_rows() {
    local name
    "$ROOT/setup/compare.sh" --smallest --only kvs,recovery,gateway --out "$SCRATCH/out" >"$SCRATCH/compare.log" 2>&1 ||
        die "the smallest comparison fails: $(tail -n 20 "$SCRATCH/compare.log")"
    REPORT=$SCRATCH/out/comparison
    jq -e '[.runs[] | select(.failure != null)] == []' "$REPORT.json" >/dev/null || die "runs have failed"
    jq -e '[.runs[].figures.cores_ns > 0] | all' "$REPORT.json" >/dev/null || die "a run does not say how far its cores were apart"
    # Everybody who takes part has a run in each contest, and whoever does not is named.
    jq -e '. as $all | [.contenders[] | . as $one | select(.missing == null)
           | select([$all.runs[] | select(.family == $one.family and .contender == $one.name)] == [])] == []' \
        "$REPORT.json" >/dev/null || die "somebody who takes part has no run"
    for name in "Hikyaku KVS" memcached "memcached, quiet" Redis "Redis, list" "null server" Hikyaku "client to sink"; do
        grep -q "^| $name |" "$REPORT.md" || die "the report does not tell of $name"
    done
    grep -q 'class="headline' "$REPORT.html" || die "the page does not say who is ahead"
    if grep -q 'src=\|href=\|<script' "$REPORT.html"; then die "the page wants something from elsewhere"; fi
    # The page is what the figures say, also later.
    "$BIN/loadgen" compare --again "$REPORT.json" --scratch "$SCRATCH/work" --html "$SCRATCH/again.html" >/dev/null
    cmp "$REPORT.html" "$SCRATCH/again.html" || die "the page cannot be made again"
    say "everybody has a row"
}

who_lies_is_found_out() {
    local lying=$SCRATCH/programs/memcached/usr/bin status=0
    mkdir -p "$lying"
    cat >"$lying/memcached" <<'LIAR'
#!/usr/bin/env python3
"""Takes everything, says that it did, and gives something else back."""
import socket
import sys

if sys.argv[1:] == ["-V"]:
    print("liar 1")
    sys.exit()
listener = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("-p") + 1])))
while True:
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as lines:
        for line in lines:
            words = line.split()
            if words[0] == b"ms":
                lines.read(int(words[2]) + 2)
            answer = b"HD\r\n" if words[0] != b"mg" else b"VA 34\r\n" + 34 * b"x" + b"\r\n"
            connection.sendall(answer)
LIAR
    cat >"$SCRATCH/swallows" <<SWALLOWER
#!/bin/sh
if [ "\$1" = --describe ]; then echo swallower 1; exit; fi
exec "$BIN/loadgen" sink --listen "\$1"
SWALLOWER
    chmod +x "$lying/memcached" "$SCRATCH/swallows"
    "$BIN/loadgen" compare --only kvs,gateway --scale smallest --programs "$SCRATCH/programs" --store memcached \
        --store absent --relay "Swallower=$SCRATCH/swallows" --relay "Nobody=$SCRATCH/nobody" \
        --scratch "$SCRATCH/work" --json "$SCRATCH/lies.json" --markdown "$SCRATCH/lies.md" >"$SCRATCH/lies.log" 2>&1 || status=$?
    [ "$status" -eq 1 ] || die "a comparison with liars ends with status $status"
    has_failure memcached 'is right'
    has_failure Swallower 'have not arrived'
    grep -q '^| Nobody .*left out: ' "$SCRATCH/lies.md" || die "who is missing is not named"
    say "who lies is found out, who is missing is named"
}

# has_failure WHO TEXT: all runs of that contender have failed, and say so.
has_failure() {
    jq -e --arg who "$1" --arg text "$2" \
        '[.runs[] | select(.contender == $who)] | length > 0 and all(.failure // "" | contains($text))' \
        "$SCRATCH/lies.json" >/dev/null || {
        jq --arg who "$1" '.runs[] | select(.contender == $who)' "$SCRATCH/lies.json" >&2
        die "$1 is not found out"
    }
}

# While it starts, and when it has.
relays_end_whenever_they_are_told_to() {
    local relay
    for relay in hikyaku postfix-ram postfix-disk opensmtpd; do
        "$ROOT/setup/relays/$relay.sh" --describe >/dev/null 2>&1 || continue
        end_relay_when starts "$relay"
        end_relay_when listens "$relay"
    done
    say "relays end whenever they are told to"
}

# end_relay_when STATE RELAY: starts it, and tells it to end when it is in that state.
end_relay_when() {
    local relay=$2
    PLACE=$SCRATCH/relays/$relay
    PORT=$(free_ports 1)
    rm -rf "$PLACE"
    mkdir -p "$PLACE"
    start relay "$ROOT/setup/relays/$relay.sh" "127.0.0.1:$PORT" "127.0.0.1:$(free_ports 1)" "$PLACE"
    await 30 "$1" || die "$relay does not start"
    stop relay
    ! runs_in "$PLACE" || die "something of $relay goes on"
}

# The script itself has the directory as its last word.
starts() { runs_in "$PLACE" >/dev/null; }

listens() { answers 127.0.0.1 "$PORT"; }

# runs_in DIRECTORY: whether a program does that works there, or was told of it; prints it.
runs_in() {
    local process words found=1
    for process in /proc/[0-9]*; do
        words=$(tr '\0' ' ' <"$process/cmdline") || continue
        if [[ "$(readlink "$process/cwd")" == "$1/"* || $words == *"$1/"* ]]; then
            say "${process##*/}: $words"
            found=0
        fi
    done 2>/dev/null
    return "$found"
}

nothing_stays_of_an_interrupted_comparison() {
    local out=$SCRATCH/interrupted
    start comparison "$ROOT/setup/compare.sh" --smallest --only gateway --no-install --out "$out"
    await 60 has_begun || die "the comparison does not begin"
    stop comparison
    ! runs_in "$out" || die "something of the comparison goes on"
    [ -z "$(find "$out" -mindepth 1 -maxdepth 1 -name 'run.*')" ] || die "its directory stays"
    [ -s "$out/comparison.json" ] || die "what was measured until then is not told"
    say "nothing stays of an interrupted comparison"
}

has_begun() { grep -q 'round 1  Hikyaku' "$SCRATCH/comparison.log"; }

main "$@"
