# shellcheck shell=bash
# A whole system in the lab, for the demo: a gateway and two KVS on a host each, client and sink on a fourth one. To be
# sourced after lib.sh, system.sh and hosts.sh; `begin` was called.

# Its hosts, and where the description of their queues is.
LAB_HOSTS=(gw kvs1 kvs2 out)
# More options of `lab.sh up`.
LAB_OPTIONS=()
DESCRIPTION=$ROOT/setup/examples/nic-queues.conf

# why_no_bypass: a sentence why this machine cannot have it in a lab; nothing if it can.
why_no_bypass() {
    local tool
    if [ "$(id -u)" -ne 0 ]; then
        say "hosts in network namespaces need root"
        return
    fi
    for tool in ip tc ethtool nft ss; do
        command -v "$tool" >/dev/null || {
            say "there is no $tool"
            return
        }
    done
    if ! has_assembler; then
        say "there is neither llvm-mc nor clang"
    elif ! can_build_bypass; then
        say "what AF_XDP is built with is not there (setup/install.sh)"
    elif ! grep -q '^XDP ' /proc/net/protocols; then
        say "this kernel has no AF_XDP"
    elif ! can_have_namespaces; then
        say "this machine does not let us make network namespaces"
    fi
}

# begin_lab: makes the hosts. They go when this shell ends.
begin_lab() {
    NET=hkdemo$$
    say "$NET" >"$SCRATCH/lab"
    trap 'leave_lab' EXIT
    "$ROOT/setup/lab.sh" up --name "$NET" --hosts "${LAB_HOSTS[*]}" --description "$DESCRIPTION" "${LAB_OPTIONS[@]}" >"$SCRATCH/lab.log" 2>&1
    # shellcheck disable=SC2034 # of network.sh
    HOSTS=("${LAB_HOSTS[@]}")
}

leave_lab() {
    local status=$?
    trap - EXIT
    end_lab
    finish "$status"
}

end_lab() {
    end_processes "${STARTED[@]}"
    STARTED=()
    "$ROOT/setup/lab.sh" down --name "$NET" >/dev/null || true
}

# prepare_lab_system afxdp|kernel: configurations for all of them.
prepare_lab_system() {
    # shellcheck disable=SC2034 # of hosts.sh
    TRANSPORT=$1
    prepare_hosts kvs1 kvs2
    GATEWAY=10.77.0.$(number_of gw):2525
    SINK=10.77.0.$(number_of out):2600
    sed -i -e "s|^listen = .*|listen = [\"$GATEWAY\"]|" -e "s|127\.0\.0\.1:2600\"|$SINK\"|" \
        -e "s|^status_socket = .*|status_socket = \"$SCRATCH/gateway.sock\"|" \
        -e 's|^# networks = .*|networks = ["127.0.0.0/8", "10.77.0.0/16"]|' "$SCRATCH/gateway.toml"
}

# start_lab_system [OPTION…]: all of it; the options are the sink's. Fails if a program does not start.
start_lab_system() {
    local host
    for host in kvs1 kvs2; do
        launch_on "$host" "kvs-$host" kvs
        await 30 accepts_or_died "$host" "kvs-$host" "10.77.0.$(number_of "$host")" 7001
        is_running "$(pid_of "kvs-$host")" || return 1
    done
    start_lab_sink "$@"
    launch_on gw gateway gateway
    await 30 accepts_or_died gw gateway "${GATEWAY%:*}" "${GATEWAY##*:}"
    is_running "$(pid_of gateway)"
}

start_lab_sink() {
    start_on out sink "$BIN/loadgen" sink --listen "$SINK" "$@"
    await 30 accepts_or_died out sink "${SINK%:*}" "${SINK##*:}"
}

# launch_on HOST NAME gateway|kvs
launch_on() {
    start_on "$1" "$2" "$ROOT/setup/launch.sh" --description "$DESCRIPTION" "$3" --config "$SCRATCH/$2.toml"
}

# accepts_or_died HOST NAME ADDRESS PORT: by the loopback of that host.
accepts_or_died() {
    gone "$(pid_of "$2")" || on "$1" bash -c "exec 3<>/dev/tcp/$3/$4" 2>/dev/null
}

# show_links afxdp|kernel: by what the links went: what the kernel knows of them. Fails if by the other.
show_links() {
    local connections programs
    connections=$(on gw ss -Htn state established "( dport >= :7001 and dport <= :7016 )" | wc -l)
    programs=$(for host in gw kvs1 kvs2; do on "$host" ip -o link show; done | grep -c ' xdp[a-z]*/\| prog/xdp') || true
    say "links: the kernel of the gateway's host has $connections TCP connections to KVS; XDP programs on $programs interfaces"
    on out ping -q -c 1 -W 2 "${GATEWAY%:*}" >/dev/null 2>&1 || die "the kernel does not answer a ping beside the links"
    if [ "$1" = afxdp ]; then
        [ "$connections" -eq 0 ] && [ "$programs" -eq 6 ]
    else
        [ "$connections" -gt 0 ] && [ "$programs" -eq 0 ]
    fi
}
