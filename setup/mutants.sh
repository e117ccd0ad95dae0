#!/usr/bin/env bash
# Takes safety mechanisms out of the code, one at a time, and sees which check notices.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<END
Usage: setup/mutants.sh [--seeds N] [--mails N] [--check] [MUTANT…]

Each mutant in setup/mutants is a small change that removes one mechanism on which nothing acknowledged
being lost, doubled or reordered depends. It is made in a copy of the tree (target/mutants), the copy is built, and the
check that the mutant names is run: the simulator, seed after seed, or a test. Prints which check found it, what it
said, and how many seeds it took. Exit status 0 only if every mutant was caught by the check that it names.

  --seeds N  most seeds for each (300)
  --mails N  mails of each seed (400)
  --check    only see whether each mutant still fits the code
  --help     this text

A mutant is a text: 'what:' and 'check:' lines, and after them, for each place, '--- FILE', the lines that are there now,
'+++', and the lines that take their place. 'check: sim FAULTS TEXT' expects a seed with such faults to fail with that
TEXT (an extended regular expression); 'check: test PACKAGE NAME' expects that test to fail.
END
}

SEEDS=300
MAILS=400
# Seeds that are run at a time: a mutant is mostly caught by one of the first.
STEP=20
# Where the seeds begin.
FIRST_SEED=1
COPY=$ROOT/target/mutants
ONLY_CHECK=no
NAMES=()

main() {
    local name failed=0
    read_options "--seeds SEEDS number" "--mails MAILS number" "--check ONLY_CHECK =yes" \
        "- NAMES $(all_mutants | paste -sd ,)" -- "$@"
    [ ${#NAMES[@]} -gt 0 ] || mapfile -t NAMES < <(all_mutants)
    begin
    for name in "${NAMES[@]}"; do
        change "$name" "$ROOT" check || failed=1
    done
    [ "$failed" -eq 0 ] || die "these mutants do not fit the code any more"
    if [ "$ONLY_CHECK" = yes ]; then
        say "${#NAMES[@]} mutants fit the code"
        return
    fi
    printf '%-28s %-8s %6s  %s\n' mutant caught seeds 'by what'
    for name in "${NAMES[@]}"; do
        try "$name" || failed=1
    done
    return "$failed"
}

all_mutants() { (cd "$ROOT/setup/mutants" && printf '%s\n' *.mutant | sed 's/\.mutant$//'); }

field() { sed -n "s/^$2: //p" "$ROOT/setup/mutants/$1.mutant" | sed -n 1p; }

# change MUTANT TREE [check]: makes the mutant's changes there, or only sees whether they can be made.
change() {
    python3 - "$ROOT/setup/mutants/$1.mutant" "$2" "${3:-}" <<'END'
import sys, pathlib
mutant, tree, check = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
places = pathlib.Path(mutant).read_text().split("\n--- ")[1:]
if not places:
    sys.exit(f"{mutant}: changes nothing")
for place in places:
    file, _, rest = place.partition("\n")
    old, found, new = rest.partition("\n+++\n")
    path = tree / file.strip()
    text = path.read_text()
    if not found or text.count(old) != 1:
        sys.exit(f"{mutant}: {file} has its lines {text.count(old)} times, and not once")
    if not check:
        path.write_text(text.replace(old, new.rstrip("\n")))
END
}

# try MUTANT: a line of the table; fails if it was not caught.
try() {
    local name=$1 kind first second
    lay_copy
    change "$name" "$COPY/tree" || return 1
    read -r kind first second < <(field "$name" check)
    case $kind in
    sim) try_simulator "$name" "$first" "$second" ;;
    test) try_test "$name" "$first" "$second" ;;
    *) die "$name: check is sim or test" ;;
    esac
}

# Lays the tree's files in the copy; those that are the same keep their times, so that little is built.
lay_copy() {
    (cd "$ROOT" && git ls-files --cached --others --exclude-standard -z) >"$SCRATCH/files"
    python3 - "$ROOT" "$COPY/tree" "$SCRATCH/files" <<'END'
import pathlib, shutil, sys
root, copy = map(pathlib.Path, sys.argv[1:3])
names = pathlib.Path(sys.argv[3]).read_text().split("\0")
files = {name for name in names if (root / name).is_file()}
copy.mkdir(parents=True, exist_ok=True)
for old in [path for path in copy.rglob("*") if path.is_file()]:
    if str(old.relative_to(copy)) not in files:
        old.unlink()
for name in files:
    there = copy / name
    content = (root / name).read_bytes()
    if not there.is_file() or there.read_bytes() != content:
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, there)
END
}

# cargo_in_copy COMMAND…: cargo on the copy, with a target directory of its own. What is built is run for
# seconds only, so it is not worth the time to optimise it across crates.
cargo_in_copy() {
    CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_TARGET_DIR=$COPY/target cargo "$1" --locked --quiet --manifest-path "$COPY/tree/Cargo.toml" "${@:2}"
}

try_simulator() {
    local name=$1 faults=$2 text=$3 seed log=$SCRATCH/run what
    cargo_in_copy build --release -p hikyaku-sim --bin sim 2>"$SCRATCH/build" || {
        cat "$SCRATCH/build" >&2
        warn "$name does not compile"
        return 1
    }
    for ((seed = FIRST_SEED; seed < FIRST_SEED + SEEDS; seed += STEP)); do
        in_turn "$COPY/target/release/sim" --seed "$seed" --seeds "$STEP" --mails "$MAILS" --faults "$faults" --jobs 2 \
            >"$log" 2>&1 || true
        if grep -Eq "$text" "$log"; then
            what=$(grep -E -m 1 "$text" "$log" | cut -c 1-90 | sed 's/^ *//')
            seed=$(awk -v text="$text" '/^seed / { seed = $2 } $0 ~ text { print seed; exit }' "$log")
            printf '%-28s %-8s %6d  %s\n' "$name" yes $((seed - FIRST_SEED + 1)) "$what"
            return
        fi
    done
    printf '%-28s %-8s %6d  %s\n' "$name" NO "$SEEDS" "expected: $text"
    return 1
}

try_test() {
    local name=$1 package=$2 test=$3 log=$SCRATCH/run
    if cargo_in_copy test -p "$package" "$test" >"$log" 2>&1; then
        printf '%-28s %-8s %6s  %s\n' "$name" NO - "expected: $test"
        return 1
    fi
    if ! grep -q 'test result: FAILED' "$log"; then
        tail -n 20 "$log" >&2
        warn "$name does not compile"
        return 1
    fi
    printf '%-28s %-8s %6s  %s\n' "$name" yes - "$test"
}

main "$@"
