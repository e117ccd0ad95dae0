#!/usr/bin/env bash
# Builds and runs the fuzz targets.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

# Each target, the directory of its crate, and the length of its longest input in bytes.
TARGETS="
frame_decoder    kvs/proto/fuzz     1024
link_client      kvs/proto/fuzz     1500
content_decoder  gateway/smtp/fuzz   600
client_session   gateway/smtp/fuzz  2000
server_session   gateway/smtp/fuzz  3000
stored_message   gateway/fuzz       1200
queue_server     kvs/fuzz           1000
ethernet         tcpstack/fuzz      1000
xdp_filter       tcpstack/fuzz       100
"
TOOLCHAIN=nightly
# Built programs, inputs that were found, and findings.
WORK=$ROOT/target/fuzz
# What all runs took.
CPU_SECONDS=0

usage() {
    cat <<END
Usage: setup/fuzz.sh [--seconds N] [--keep] [TARGET…]

Runs the fuzz targets, all or those named, one after the other and one process at a time; says for
each how much CPU time it took and what came of it. Begins with the inputs in the tree
(…/fuzz/corpus) and those of earlier runs (target/fuzz/corpus). Findings are in
target/fuzz/findings; to repeat one: target/fuzz/*/release/TARGET FILE.

  --seconds N  for each target (default 60)
  --keep       afterwards makes the corpora in the tree anew, the fewest inputs that cover as much
  --help       this text

Targets: $(all_targets | paste -sd ' ')

Needs a nightly Rust tool chain, cargo-fuzz and a C++ compiler: setup/install.sh --fuzz.
Exit status 0 only if nothing was found.
END
}

SECONDS_EACH=60
KEEP=no
NAMES=()

main() {
    local name found=0
    read_options "--seconds SECONDS_EACH number" "--keep KEEP =yes" "- NAMES $(all_targets | paste -sd ,)" -- "$@"
    [ ${#NAMES[@]} -gt 0 ] || mapfile -t NAMES < <(all_targets)
    cargo "+$TOOLCHAIN" fuzz --version >/dev/null 2>&1 ||
        die "cargo-fuzz or the $TOOLCHAIN tool chain is missing: setup/install.sh --fuzz"
    begin
    cargo build --locked --quiet --manifest-path "$ROOT/Cargo.toml" -p hikyaku-fuzzing
    for name in "${NAMES[@]}"; do build "$name"; done
    printf '%-16s %8s %12s %9s %7s %s\n' target 'CPU s' executions features inputs found
    for name in "${NAMES[@]}"; do
        run "$name" "$SECONDS_EACH" || found=1
        [ "$KEEP" = no ] || keep "$name"
    done
    printf '%-16s %8s\n' 'in all' "$CPU_SECONDS"
    return "$found"
}

all_targets() { first_words "$TARGETS"; }
crate_of() { awk -v name="$1" '$1 == name { print $2; found = 1 } END { exit !found }' <<<"$TARGETS"; }
longest_of() { awk -v name="$1" '$1 == name { print $3 }' <<<"$TARGETS"; }
corpus_of() { printf '%s/corpus/%s.txt' "$ROOT/$(crate_of "$1")" "$1"; }
program_of() { find "$WORK" -path "*/release/$1" -type f; }

# The inputs in the tree are text, so that they are few files.
fuzz_corpus() { "${CARGO_TARGET_DIR:-$ROOT/target}/debug/fuzz-corpus" "$@"; }

# Without a sanitizer: the code is safe Rust, and it would halve the speed. And without `cfg(fuzzing)`, with which some
# crates (smoltcp) take every checksum for right.
build() {
    cargo "+$TOOLCHAIN" fuzz build --no-cfg-fuzzing --sanitizer none --fuzz-dir "$ROOT/$(crate_of "$1")" \
        --target-dir "$WORK" "$1" >"$SCRATCH/build.log" 2>&1
}

# run TARGET SECONDS: prints a line of the table; fails if something was found.
run() {
    local name=$1 crate log=$SCRATCH/$1.log cpu executions features inputs found
    crate=$ROOT/$(crate_of "$name")
    mkdir -p "$WORK/corpus/$name" "$WORK/findings/$name" "$SCRATCH/$name"
    [ ! -f "$(corpus_of "$name")" ] || fuzz_corpus unpack "$(corpus_of "$name")" "$SCRATCH/$name"
    local arguments=("-max_total_time=$2" "-max_len=$(longest_of "$name")" -timeout=10
        -rss_limit_mb=2048 -print_final_stats=1 "-artifact_prefix=$WORK/findings/$name/")
    [ ! -f "$crate/dictionaries/$name.dict" ] || arguments+=("-dict=$crate/dictionaries/$name.dict")
    touch "$SCRATCH/start"
    TIMEFORMAT='%U %S'
    { time in_turn nice -n 19 "$(program_of "$name")" "${arguments[@]}" "$WORK/corpus/$name" \
        "$SCRATCH/$name" >"$log" 2>&1 || true; } 2>"$SCRATCH/time"
    cpu=$(awk '{ printf "%.0f", $1 + $2 }' "$SCRATCH/time")
    CPU_SECONDS=$((CPU_SECONDS + cpu))
    executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    features=$(sed -n 's/.* ft: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    inputs=$(find "$WORK/corpus/$name" -type f | wc -l)
    found=$(find "$WORK/findings/$name" -type f -newer "$SCRATCH/start" | wc -l)
    printf '%-16s %8s %12s %9s %7s %s\n' "$name" "$cpu" "${executions:-?}" "${features:-?}" \
        "$inputs" "$found"
    if [ -z "$executions" ] && [ "$found" -eq 0 ]; then
        tail -n 20 "$log" >&2
        die "$name did not run to its end"
    fi
    if [ "$found" -gt 0 ]; then
        grep -A 3 -E 'panicked at|ERROR: libFuzzer' "$log" | sed -n 1,8p
        find "$WORK/findings/$name" -type f -newer "$SCRATCH/start"
        return 1
    fi
}

# Makes the corpus in the tree anew from all inputs. How often a branch is taken does not count, or
# it would be thousands.
keep() {
    local name=$1
    mkdir -p "$SCRATCH/$name.kept" "$(dirname "$(corpus_of "$name")")"
    in_turn nice -n 19 "$(program_of "$name")" -set_cover_merge=1 -use_counters=0 \
        "-max_len=$(longest_of "$name")" "$SCRATCH/$name.kept" "$SCRATCH/$name" \
        "$WORK/corpus/$name" >"$SCRATCH/keep.log" 2>&1
    fuzz_corpus pack "$SCRATCH/$name.kept" "$(corpus_of "$name")"
}

main "$@"
