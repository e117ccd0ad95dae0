#!/usr/bin/env bash
# Starting a pinned gateway and KVS: what does not fit the description of the interfaces is named, memory may be locked,
# other threads stay off the pinned cores, and a user has just the privileges of the bypass. And the units for systemd.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"

main() {
    begin
    make_programs
    make_files
    names_what_does_not_fit
    starts_what_fits
    has_just_the_privileges_of_the_bypass
    units_are_sound
}

# Programs that say with what they were started.
make_programs() {
    local name
    mkdir -p "$SCRATCH/bin"
    # A user has to get through to it.
    chmod 755 "$SCRATCH" "$SCRATCH/bin"
    for name in gateway kvs; do
        cat >"$SCRATCH/bin/$name" <<'END'
#!/usr/bin/env bash
case "$*" in
*--check) ! grep wrong "$2" || exit 2 ;;
*)
    echo "arguments $*"
    echo "cores $(taskset -cp $$ | sed 's/.*: //')"
    echo "locked $(ulimit -l)"
    sed -n 's/^\(Uid\|CapEff\|CapAmb\|CapBnd\|NoNewPrivs\):[[:space:]]*\([^[:space:]]*\).*/\1 \2/p' /proc/$$/status
    ;;
esac
END
        chmod +x "$SCRATCH/bin/$name"
    done
    export HIKYAKU_BIN=$SCRATCH/bin
}

make_files() {
    cat >"$SCRATCH/queues.conf" <<'END'
interface seg0
    channels 3
    queue 1 core 0 ports 61440/64 7001/1
    queue 2 core 1 ports 61504/64 7002/1
END
    sed 's/ core [0-9]*//' "$SCRATCH/queues.conf" >"$SCRATCH/unpinned.conf"
    sed '/^    queue 2/d; s/channels 3/channels 2/' "$SCRATCH/queues.conf" >"$SCRATCH/one.conf"
    cat >"$SCRATCH/gateway.toml" <<'END'
listen = ["127.0.0.1:2525"]
[threads]
# cores = "7"
cores = "0-1"
[links]
transport = "afxdp"
[[interface]]
name = "seg0"   # the first
nic_queues = "1-2"
ports = 61_440
[[kvs]]
name = "a"
END
    cat >"$SCRATCH/kvs.toml" <<'END'
name = "a"
listen = ["10.77.0.2:7001", "10.77.1.2:7001"]
workers = 2
cores = "0,1"
[links]
transport = "auto"
[[interface]]
name = "seg0"
nic_queues = "1,2"
peers = ["10.77.0.1"]
END
}

# launch DESCRIPTION PROGRAM SED [OPTION…]: with the configuration changed by sed.
launch() {
    local description=$1 program=$2
    sed "$3" "$SCRATCH/$program.toml" >"$SCRATCH/changed.toml"
    shift 3
    "$ROOT/setup/launch.sh" --description "$SCRATCH/$description.conf" "$@" "$program" --config "$SCRATCH/changed.toml" --extra
}

# refused TEXT DESCRIPTION PROGRAM SED: with status 2, and that text.
refused() {
    local text=$1 status=0
    shift
    launch "$@" >"$SCRATCH/said" 2>&1 || status=$?
    [ "$status" -eq 2 ] || die "status $status of: $*"
    grep -q -e "$text" "$SCRATCH/said" || {
        cat "$SCRATCH/said" >&2
        die "'$*' does not say '$text'"
    }
}

names_what_does_not_fit() {
    refused 'eth7 is not described' queues gateway 's/seg0/eth7/'
    refused 'port 61376 of seg0 goes to no queue of its own, and queue 1 waits for it' queues gateway 's/61_440/61_376/'
    refused 'port 61504 of seg0 goes to queue 2, and queue 1 waits for it' queues gateway 's/61_440/61_504/'
    refused 'port 7003 of seg0 goes to no queue' queues kvs 's/:7001/:7002/g'
    refused 'port 7001 of seg0 goes to queue 1, and queue 2 waits' queues kvs 's/"1,2"/"2,1"/'
    refused 'worker 0 has queue 1 of seg0, whose core is 0 there and 1' queues gateway 's/"0-1"/"1,0"/'
    refused 'whose core is 1 there and none' queues kvs 's/"0,1"/"0"/'
    # The program's own word.
    refused wrong queues gateway 's/name/wrong/'
    ! "$ROOT/setup/launch.sh" sender --config x 2>/dev/null || die "an unknown program is started"
}

starts_what_fits() {
    launch queues gateway 's/"afxdp"/"kernel"/; s/seg0/eth7/' >/dev/null || die "queues are compared that nobody takes"
    launch unpinned gateway '' >"$SCRATCH/said" || die "the gateway is not started"
    grep -q "^arguments --config $SCRATCH/changed.toml --extra$" "$SCRATCH/said" || die "it has other arguments"
    ! may_raise_limits || grep -q '^locked unlimited$' "$SCRATCH/said" || die "too little memory may be locked"
    launch unpinned kvs '' >"$SCRATCH/said" || die "the KVS is not started"
    # Core 0 is pinned: what is not a worker goes elsewhere, where there is somewhere else.
    if [ "$(nproc)" -ge 2 ] && taskset -cp $$ | has ': 0'; then
        launch one kvs 's/"1,2"/"1"/' >"$SCRATCH/said"
        ! grep -q '^cores 0' "$SCRATCH/said" || die "other threads run on a pinned core"
    fi
}

has_just_the_privileges_of_the_bypass() {
    [ "$(id -u)" -eq 0 ] || return 0
    local lock=0
    # Where limits cannot be raised it takes CAP_IPC_LOCK, 14, in their place.
    may_raise_limits || lock=4
    launch queues kvs '' --user nobody >"$SCRATCH/said" || die "the KVS is not started as another user"
    # CAP_NET_ADMIN 12, CAP_NET_RAW 13, CAP_BPF 39; and CAP_NET_BIND_SERVICE 10.
    has_privileges "000000800000$((3 + lock))000" || die "the KVS has other privileges"
    launch queues gateway '' --user nobody >"$SCRATCH/said"
    has_privileges "000000800000$((3 + lock))400" || die "the gateway has other privileges"
    ! has_privileges "000000800000$((3 + lock))000" || die "the check of privileges finds nothing"
    ! launch queues kvs '' --user nobody-of-this-name 2>/dev/null || die "an unknown user is taken"
}

may_raise_limits() { (ulimit -l unlimited) 2>/dev/null; }

has_privileges() {
    local set
    ! grep -qx 'Uid 0' "$SCRATCH/said" || return 1
    grep -qx 'NoNewPrivs 1' "$SCRATCH/said" || return 1
    for set in CapEff CapAmb CapBnd; do grep -qx "$set $1" "$SCRATCH/said" || return 1; done
}

units_are_sound() {
    local unit
    command -v systemd-analyze >/dev/null || {
        warn "there is no systemd-analyze: the units are not looked at"
        return 0
    }
    mkdir -p "$SCRATCH/units"
    for unit in "$ROOT"/setup/systemd/*.service; do
        sed "s|/usr/local/lib/hikyaku/|$ROOT/|" "$unit" >"$SCRATCH/units/${unit##*/}"
    done
    systemd-analyze verify --man=no "$SCRATCH"/units/*.service >"$SCRATCH/verified" 2>&1 || die "$(cat "$SCRATCH/verified")"
    ! grep -e hikyaku "$SCRATCH/verified" || die "systemd finds fault with a unit"
    # What it would find.
    sed -i 's/^LimitMEMLOCK=.*/LimitMEMLOC=all/; s/launch.sh/lunch.sh/' "$SCRATCH/units/hikyaku-kvs.service"
    ! systemd-analyze verify --man=no "$SCRATCH/units/hikyaku-kvs.service" >"$SCRATCH/verified" 2>&1 ||
        grep -q LimitMEMLOC "$SCRATCH/verified" || die "the check of units finds nothing"
}

main "$@"
