# shellcheck shell=bash
# What the scripts in setup/ have in common. To be sourced after `set -euo pipefail`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The programs as `cargo build --release` leaves them.
# shellcheck disable=SC2034  # used by those who source this
BIN=${CARGO_TARGET_DIR:-$ROOT/target}/release

# Mail programs of others that setup/install.sh --test puts here for the scenarios.
# shellcheck disable=SC2034
PROGRAMS=${XDG_CACHE_HOME:-$HOME/.cache}/hikyaku/programs

say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    warn "$*"
    exit 1
}

# read_options "OPTION VARIABLE KIND"… -- ARGUMENT…: sets the variables from what a script was called with. KIND is
#   =VALUE          the option stands alone, and means that value
#   number          whole, above 0
#   number:MOST     and no more than that
#   file            any text that is not empty, such as a name
#   one,of,these    one of these words
#   some:of,these   some of these words, with commas between
# For arguments that are no options the script says "- VARIABLE of,these", and they are added to that list. --help prints the
# script's `usage`; what is unknown prints it too and ends with status 2.
read_options() {
    local option variable kind
    local -A variables=() kinds=()
    while [ "$1" != -- ]; do
        read -r option variable kind <<<"$1"
        variables[.$option]=$variable
        kinds[.$option]=$kind
        shift
    done
    shift
    while [ $# -gt 0 ]; do
        option=$1
        [[ $1 == -?* ]] || option=-
        kind=${kinds[.$option]:-}
        variable=${variables[.$option]:-}
        case $option:$kind in
        --help: | -h:)
            usage
            exit 0
            ;;
        *:)
            usage >&2
            exit 2
            ;;
        -:*)
            is_among "$kind" "$1" || die "$1 is not known here (see --help)"
            local -n list=$variable
            list+=("$1")
            shift
            ;;
        *:=*)
            printf -v "$variable" %s "${kind#=}"
            shift
            ;;
        *)
            check_value "$1" "$kind" "${2:-}" "${!variable:-}"
            printf -v "$variable" %s "$2"
            shift 2
            ;;
        esac
    done
}

# check_value OPTION KIND VALUE DEFAULT: ends the script with a word if that is no such value.
check_value() {
    local word
    case $2 in
    number | number:*)
        [[ $3 =~ ^[1-9][0-9]{0,17}$ ]] || die "$1 wants a number, such as ${4:-3}"
        [[ $2 == number || $3 -le ${2#number:} ]] || die "$1 wants a number up to ${2#number:}"
        ;;
    file) [ -n "$3" ] || die "$1 wants the name of a file" ;;
    some:*)
        [ -n "$3" ] || die "$1 wants some of ${2#some:}"
        for word in ${3//,/ }; do is_among "${2#some:}" "$word" || die "$1 wants some of ${2#some:}"; done
        ;;
    *) is_among "$2" "$3" || die "$1 is one of $2" ;;
    esac
}

# is_among WORDS WORD: whether it is one of those, which have commas between.
is_among() { [[ -n $2 && $2 != *,* && ,$1, == *",$2,"* ]]; }

# first_words TABLE: of its lines that begin with a small letter, one a line.
first_words() { awk '/^[a-z]/ { print $1 }' <<<"$1"; }

# has [OPTION…] PATTERN: whether a line of what it reads matches. It reads all: `grep -q` leaves at the first match, and
# whoever writes to it still is killed for that, which counts as a failure by pipefail.
has() {
    local all
    all=$(cat)
    grep -q "$@" <<<"$all"
}

# The exit status of a scenario that cannot run here and says why.
SKIPPED=77
skip() {
    warn "$*"
    exit "$SKIPPED"
}

# Builds the programs, saying nothing but errors; without the bypass where its tool chain is missing.
build_release() {
    local features=()
    can_build_bypass || {
        warn "building without AF_XDP: $WANTED_FOR_BYPASS (setup/install.sh)"
        features=(--no-default-features)
    }
    cargo build --locked --quiet --release --manifest-path "$ROOT/Cargo.toml" "${features[@]}" \
        -p hikyaku-kvs -p hikyaku-gateway -p hikyaku-loadgen
}

# Whether there is what libxdp and libbpf are built with; what is missing is in WANTED_FOR_BYPASS.
can_build_bypass() {
    local tool header
    for tool in clang make m4 pkg-config; do
        WANTED_FOR_BYPASS="there is no $tool"
        command -v "$tool" >/dev/null || return 1
    done
    for header in gelf.h zlib.h pcap.h; do
        WANTED_FOR_BYPASS="there is no $header"
        clang -E -include "$header" -x c /dev/null >/dev/null 2>&1 || return 1
    done
}
WANTED_FOR_BYPASS=

# A shell that was opened before rustup ran does not have cargo in its PATH.
if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
    PATH=$HOME/.cargo/bin:$PATH
fi

# The processes that this shell started and has to end, and the directory that it has to remove.
STARTED=()
SCRATCH=

# Makes a scratch directory, and sees to it that it goes and that all processes end with this shell.
begin() { begin_in "$(mktemp -d "${TMPDIR:-/tmp}/hikyaku.XXXXXX")"; }

# begin_in DIR: the same, with that directory.
begin_in() {
    SCRATCH=$1
    mkdir -p "$SCRATCH"
    trap 'finish' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

# Leaves what was started, and the scratch directory, as they are when this shell ends.
let_go() {
    trap - EXIT INT TERM HUP
    STARTED=()
}

# finish [STATUS]: ends this shell with it, or with that of the last command.
finish() {
    local status=${1:-$?}
    trap - EXIT INT TERM HUP
    end_processes "${STARTED[@]}"
    if [ "$status" -ne 0 ] && [ -d "$SCRATCH" ]; then
        show_logs
    fi
    [ -z "$SCRATCH" ] || rm -rf "$SCRATCH"
    exit "$status"
}

# The last lines of each log, for whoever has to find out what went wrong.
show_logs() {
    local log
    for log in "$SCRATCH"/*.log; do
        [ -s "$log" ] || continue
        printf -- '--- the end of %s\n' "${log##*/}" >&2
        tail -n 15 "$log" >&2
    done
}

# start NAME COMMAND…: starts it in the background with its output in $SCRATCH/NAME.log and its
# process id in $SCRATCH/NAME.pid. A session of its own keeps the terminal's signals from it: it is
# ended in its turn.
start() {
    local name=$1
    shift
    setsid "$@" </dev/null >>"$SCRATCH/$name.log" 2>&1 &
    STARTED+=("$!")
    printf '%s\n' "$!" >"$SCRATCH/$name.pid"
}

# in_turn COMMAND…: runs it and waits for it, so that a signal to this shell ends it at once.
in_turn() {
    local pid status=0
    "$@" </dev/null &
    pid=$!
    STARTED+=("$pid")
    wait "$pid" || status=$?
    forget "$pid"
    return "$status"
}

# A process that was waited for is no longer ours: its id may be another's next.
forget() {
    local pid left=()
    for pid in "${STARTED[@]}"; do
        [ "$pid" = "$1" ] || left+=("$pid")
    done
    STARTED=("${left[@]}")
}

pid_of() { cat "$SCRATCH/$1.pid"; }

is_running() { kill -0 "$1" 2>/dev/null; }

# end_processes PID…: asks them to end, the latest first, and kills what does not within 10 s.
end_processes() {
    local index pid
    for ((index = $#; index > 0; index--)); do
        pid=${!index}
        is_running "$pid" || continue
        kill -TERM "$pid" 2>/dev/null || true
        await 10 gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
}

gone() {
    # A child that ended is still there until it is waited for: its state says so.
    local state
    state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null) || return 0
    [ -z "$state" ] || [ "$state" = Z ]
}

# stop NAME, kill_hard NAME: ends one of them, politely or not.
stop() {
    end_processes "$(pid_of "$1")"
    forget "$(pid_of "$1")"
}

kill_hard() {
    local pid
    pid=$(pid_of "$1")
    kill -KILL "$pid"
    wait "$pid" 2>/dev/null || true
    forget "$pid"
}

# assert_refused TEXT COMMAND…: the command fails, and says that.
assert_refused() {
    local text=$1
    shift
    ! "$@" >"$SCRATCH/said" 2>&1 || die "not refused: $*"
    grep -q -e "$text" "$SCRATCH/said" || {
        cat "$SCRATCH/said" >&2
        die "'$*' does not say '$text'"
    }
}

# await SECONDS COMMAND…: until the command succeeds. Fails when the time is over.
await() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.05
    done
}

# await_port NAME ADDRESS:PORT: until that process, started by `start`, accepts connections there.
await_port() {
    local name=$1 host=${2%:*} port=${2##*:}
    host=${host#[}
    host=${host%]}
    await 30 answers_or_died "$name" "$host" "$port" || die "$name does not listen on $2 after 30 s"
    is_running "$(pid_of "$name")" || die "$name ended at once"
}

answers_or_died() {
    answers "$2" "$3" || gone "$(pid_of "$1")"
}

answers() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# free_ports COUNT: as many TCP ports on which nobody listens, one a line. They lie below the range
# from which the kernel takes ports for outgoing connections.
free_ports() {
    local found=0 port
    local -A taken=()
    while [ "$found" -lt "$1" ]; do
        port=$((20000 + RANDOM % 12000))
        if [ -z "${taken[$port]:-}" ] && ! is_bound "$port"; then
            taken[$port]=yes
            found=$((found + 1))
            say "$port"
        fi
    done
}

is_bound() {
    local hex
    printf -v hex '%04X' "$1"
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | has "^ *[0-9]*: [0-9A-F]*:$hex "
}
