# shellcheck shell=bash
# Servers that come and go in the configuration of a running gateway, and what its status and its clients tell of
# it. To be sourced after system.sh.

# shellcheck disable=SC2034  # what reload_says is given
IN_FORCE='the configuration is in force'
# shellcheck disable=SC2034
REFUSED='the new configuration is refused'

# start_watch: has the status looked at again and again; end_watch: every queue had three copies at each look.
start_watch() {
    start watch bash -c "$(declare -f watch shows_well); BIN='$BIN' SCRATCH='$SCRATCH'; watch"
}

end_watch() {
    stop watch
    [ ! -s "$SCRATCH/unwell" ] || die "a queue had fewer than three copies: $(head -n 20 "$SCRATCH/unwell")"
    [ "$(cat "$SCRATCH/looks")" -ge 20 ] || die "the status was looked at too seldom"
}

# watch: looks at the status all the time, and notes when a queue does not have three copies.
watch() {
    local looks=0
    while :; do
        shows_well watched || cat "$SCRATCH/watched.txt" >>"$SCRATCH/unwell"
        looks=$((looks + 1))
        printf '%s\n' "$looks" >"$SCRATCH/looks.new"
        mv "$SCRATCH/looks.new" "$SCRATCH/looks"
        sleep 0.05
    done
}

# shows_well NAME: whether the status says that every queue has its copies; it is in $SCRATCH/NAME.txt.
shows_well() { "$BIN/gateway" status --socket "$SCRATCH/gateway.sock" >"$SCRATCH/$1.txt" 2>&1; }

# has_server SERVER FILTER: whether the status tells that of the server.
has_server() {
    status_json
    jq -e --arg kvs "$1" ".servers[] | select(.kvs == \$kvs) | $2" "$SCRATCH/status.json" >/dev/null
}

has_no_server() {
    status_json
    jq -e --arg kvs "$1" '[.servers[].kvs] | index($kvs) | not' "$SCRATCH/status.json" >/dev/null
}

# has_state_somewhere SERVER STATE: whether some copy at the server is in that state.
has_state_somewhere() {
    status_json
    jq -e --arg kvs "$1" --arg state "$2" \
        '[.queues[].copies[] | select(.kvs == $kvs).state] | any(. == $state)' \
        "$SCRATCH/status.json" >/dev/null
}

queued() { jq '[.queues[].messages] | add' "$SCRATCH/status.json"; }

# move_copies OPTION…: has the gateway move copies, and tells what it says.
move_copies() { "$BIN/gateway" move --config "$SCRATCH/gateway.toml" "$@"; }

# small_servers SERVER…: with less memory, so that they start at once on a machine that is busy.
small_servers() {
    local name
    for name; do set_key "kvs-$name" memory '"256 MiB"'; done
}

# set_drain SERVER BOOLEAN: in the configuration.
set_drain() {
    sed -i -e "/^name = \"$1\"$/,/^\[/{/^drain = /d}" -e "s/^name = \"$1\"$/&\ndrain = $2/" \
        "$SCRATCH/gateway.toml"
}

# take_out SERVER: of the configuration, its group included.
take_out() {
    awk -v name="name = \"$1\"" '
        function flush() { if (!(block ~ /^\[\[kvs\]\]/ && index(block, name "\n"))) printf "%s", block; block = "" }
        /^\[/ { flush() }
        { block = block $0 "\n" }
        END { flush() }' "$SCRATCH/gateway.toml" >"$SCRATCH/next.toml"
    sed -i "/^kvs = /{s/\"$1\", //; s/, \"$1\"//}" "$SCRATCH/next.toml"
    mv "$SCRATCH/next.toml" "$SCRATCH/gateway.toml"
}

# add_back SERVER: to the configuration, as the last of the group's.
add_back() {
    local address=KVS_${1^^}
    sed -i -e "/^\[\[group\]\]/i [[kvs]]\nname = \"$1\"\naddress = \"${!address}\"\n" \
        -e "s/^kvs = \[.*\"/&, \"$1\"/" "$SCRATCH/gateway.toml"
}

# set_send VALUE: the switch of all queues; the gateway takes it in if it runs.
set_send() {
    sed -i -e '/^send = /d' -e "s/^group = \"main\"$/&\nsend = \"$1\"/" "$SCRATCH/gateway.toml"
    [ ! -e "$SCRATCH/gateway.pid" ] || reload_says "$IN_FORCE"
}

# reload_says TEXT: sends SIGHUP, and waits until the gateway has said that once more.
reload_says() {
    local times
    times=$(logged "$1")
    kill -HUP "$(pid_of gateway)"
    await 20 has_logged "$1" $((times + 1)) || die "the gateway does not say '$1' after SIGHUP"
}

accepted() { grep -c '^A ' "$SCRATCH/client.ledger" 2>/dev/null || true; }

has_logged() { [ "$(logged "$1")" -ge "$2" ]; }

logged() { grep -c -e "$1" "$SCRATCH/gateway.log" || true; }

has_accepted() { [ "$(accepted)" -ge "$1" ] 2>/dev/null; }

# No client was told to come back, or lost its connection, by the load's report.
require_unnoticed() {
    jq -e '.smtp | .refused_4xx == 0 and .connections_lost == 0' "$SCRATCH/load.json" >/dev/null || {
        jq .smtp "$SCRATCH/load.json" >&2
        die "clients noticed that servers came and went"
    }
}
