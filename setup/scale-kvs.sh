# shellcheck shell=bash disable=SC2153
# What scale.sh measures at a KVS alone. To be sourced by it.

# Bytes that a message of so many takes of the arena at most, and the server of everything else.
ARENA_BESIDE=64
SERVER_BYTES=$((96 * 1024 * 1024))
SMALL=400

# start_store MESSAGES BYTES: a KVS of one worker with room for so many messages of so many bytes.
start_store() {
    local memory=$(($1 * ($2 + ARENA_BESIDE) + SERVER_BYTES))
    KVS_ALONE=127.0.0.1:$(free_ports 1)
    cat >"$SCRATCH/store.toml" <<END
name = "store"
listen = ["$KVS_ALONE"]
workers = 1
$(pinned 0)
memory = "$((memory / 1024 / 1024)) MiB"
messages_max = $(($1 + 100000))
queues_max = 1001
[[account]]
name = "loadgen"
secret = "only-for-this-measurement-1"
queues = ""
END
    start store "$BIN/kvs" --config "$SCRATCH/store.toml"
    await_port store "$KVS_ALONE"
}

pinned() { if [ "$(nproc)" -gt 1 ]; then say "cores = \"$1\""; fi; }

# load_store OPTION…: one run of the client; its report is in $SCRATCH/store.json.
load_store() {
    local core=()
    [ "$(nproc)" -eq 1 ] || core=(--core 1)
    in_turn "$BIN/loadgen" kvs --to "$KVS_ALONE" --secret only-for-this-measurement-1 "${core[@]}" \
        --cpu-of "kvs=$(pid_of store)" --json "$SCRATCH/store.json" "$@" >"$SCRATCH/client.log" 2>&1 || {
        cat "$SCRATCH/client.log" >&2
        die "a run with $* fails"
    }
}

# reported FILTER: of the last run.
reported() { jq -r "$1" "$SCRATCH/store.json"; }

# resident NAME: bytes of memory of a process, those in pages from the pool of huge ones too.
resident() {
    awk '/^(VmRSS|HugetlbPages):/ { sum += $2 } END { printf "%.0f\n", sum * 1024 }' "/proc/$(pid_of "$1")/status"
}

# fits MESSAGES: whether a KVS with so many small messages leaves the machine a gigabyte.
fits() {
    local available
    available=$(awk '/^MemAvailable:/ { printf "%.0f", $2 * 1024 }' /proc/meminfo)
    [ $(($1 * (SMALL + ARENA_BESIDE + 24) + SERVER_BYTES + 1024 * 1024 * 1024)) -lt "$available" ]
}

# Rounds of different rows take turns, so that a bad minute of the machine is one of all.
measure_held() {
    local round held fitting=() figures=$SCRATCH/held.figures
    table held "A KVS that holds messages of $SMALL bytes: store and delete, 1,024 in flight" \
        held messages_per_s kvs_us_per_message beside_bytes "${CORES_COLUMN[@]}"
    for held in "${HELD[@]}"; do
        if fits "$held"; then fitting+=("$held"); else say "$held messages are left out: there is not enough memory for them"; fi
    done
    : >"$figures"
    for ((round = 0; round < ROUNDS; round++)); do
        for held in "${fitting[@]}"; do hold "$held" >>"$figures"; done
    done
    cheapest_rows "$figures" 3 "${fitting[@]}"
    # With few messages that is the program itself.
    [ "${HELD[-1]}" -lt 1000000 ] ||
        verdict memory "bytes of a KVS beside a message of $SMALL bytes, the program included" \
            "$(column held beside_bytes | tail -n 1)" most 96
    verdict cost "times the CPU time of a message with 1,000 held, at most, with more$(unless_alike held)" \
        "$(spread held kvs_us_per_message)" most 1.2
}

# hold HELD: the figures of a row.
hold() {
    local beside
    start_store "$1" "$SMALL"
    near load_store --size "$SMALL" --held "$1" --duration "$RUN_SECONDS"
    all_there "$1"
    # All that the process has, but for what of its arena nobody uses.
    beside=$(calculate %.1f "($(resident store) - $(reported .held.free_bytes)) / $1 - $SMALL")
    stop store
    say "$1 $(rate_and_cost) $beside ${CORES_NS[*]}"
}

# Messages a second of the last run, and the CPU time of one in microseconds.
rate_and_cost() { reported '"\(.kvs.rate | round) \(.cpu.kvs_us_per_message * 1000 | round / 1000)"'; }

# all_there HELD: the server held what it was to hold, before and behind the run.
all_there() {
    [ "$(reported '[.held.messages, .left.messages] | unique == ['"$1"']')" = true ] ||
        die "the KVS does not hold $1 messages: $(reported -c '[.held, .left]')"
}

measure_kvs() {
    local round queues figures=$SCRATCH/kvs.figures
    table kvs "A KVS with many queues, to which messages of $SMALL bytes go in turn: store and delete, 1,024 in flight" \
        queues messages_per_s kvs_us_per_message "${CORES_COLUMN[@]}"
    : >"$figures"
    start_store 100000 "$SMALL"
    for ((round = 0; round < ROUNDS; round++)); do
        for queues in "${QUEUES[@]}"; do
            near load_store --size "$SMALL" --queues "$queues" --duration "$RUN_SECONDS"
            say "$queues $(rate_and_cost) ${CORES_NS[*]}" >>"$figures"
        done
    done
    stop store
    cheapest_rows "$figures" 3 "${QUEUES[@]}"
    verdict cost "times the CPU time of a message at a KVS with one queue, at most, with more$(unless_alike kvs)" \
        "$(spread kvs kvs_us_per_message)" most 1.2
}

measure_memory() {
    local size held stuck
    table memory "Memory of a KVS for messages that it holds, by their size and how many per cent of them are stuck" \
        size_bytes stuck_percent held arena_use_percent beside_bytes
    for size in 400 1024 4096 10240 102400; do
        held=$((SIZED_BYTES / size))
        for stuck in 0 10; do
            start_store "$((held * 3 / 2))" "$size"
            # Three times through the queue: by then it looks as it does for ever.
            load_store --size "$size" --held "$held" --stuck "$stuck" --messages $((held * 3)) --depth 256
            all_there "$held"
            row "$size" "$stuck" "$held" "$(reported '.left.arena_use_percent * 10 | round / 10')" \
                "$(reported '.left.overhead_bytes | round')"
            stop store
        done
    done
    verdict memory "per cent of the arena in use in order of arrival, at least, whatever the size" \
        "$(least_use 0)" least 85
    verdict memory "per cent of the arena in use with a tenth stuck, at least, whatever the size" \
        "$(least_use 10)" least 75
    verdict memory "bytes of a KVS beside a message in order of arrival, at most, up to 1 KB" \
        "$(jq -s 'map(select(.table == "memory" and .stuck_percent == 0 and .size_bytes <= 1024).beside_bytes) | max' \
            "$SCRATCH/rows")" most 96
}

least_use() {
    jq -s --argjson stuck "$1" 'map(select(.table == "memory" and .stuck_percent == $stuck).arena_use_percent) | min' \
        "$SCRATCH/rows"
}
