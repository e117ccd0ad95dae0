#!/usr/bin/env bash
# Postfix as a relay, for loadgen compare: its own instance, with a queue and a configuration of its own. Called as
# postfix-disk.sh its queue is where it is told to be, as postfix-ram.sh it is on a RAM disk of its own; the rest is the same.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=relay.sh
. "$(dirname "$0")/relay.sh"

MEDIUM=${0##*/postfix-}
MEDIUM=${MEDIUM%.sh}

describe() {
    command -v postconf >/dev/null || die "postfix is not installed"
    require_root
    say "Postfix $(postconf -d -h mail_version)"
    case $MEDIUM in
    ram) MEDIUM='a RAM disk' ;;
    disk) ;;
    *) die "it is called as postfix-disk.sh or postfix-ram.sh" ;;
    esac
    say "queue on $MEDIUM; 200 processes, connections to the next hop kept," \
        "no address look-ups, no limits for clients, flat queue directories"
}

relay() {
    local listen=$1 next=$2 place=$3 etc=$3/etc
    require_root
    if [ "$MEDIUM" = ram ] && [ -z "${HAS_RAM_DISK:-}" ]; then
        HAS_RAM_DISK=yes exec unshare --mount --propagation private "$0" "$@"
    fi
    [ "$MEDIUM" != ram ] || mount -t tmpfs -o mode=755 none "$place"
    mkdir -p "$etc" "$place/queue" "$place/data"
    open_way "$place"
    chown postfix "$place/data"
    cat >"$etc/main.cf" <<CONF
compatibility_level = 3.6
queue_directory = $place/queue
data_directory = $place/data
maillog_file = $place/postfix.log
maillog_file_prefixes = $place
myhostname = postfix.example
mydestination =
alias_maps =
local_recipient_maps =
inet_interfaces = loopback-only
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
relayhost = [${next%:*}]:${next##*:}
message_size_limit = 20971520
# The strongest that it can do.
default_process_limit = 200
default_destination_concurrency_limit = 100
initial_destination_concurrency = 20
smtp_connection_cache_destinations = [${next%:*}]:${next##*:}
smtp_connection_cache_on_demand = yes
smtp_tls_security_level = none
smtpd_tls_security_level = none
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_event_limit_exceptions = 127.0.0.0/8
in_flow_delay = 0
hash_queue_names = none
qmgr_message_active_limit = 100000
qmgr_message_recipient_limit = 100000
local_header_rewrite_clients =
disable_mime_output_conversion = yes
smtp_host_lookup = native
notify_classes =
CONF
    cat >"$etc/master.cf" <<CONF
$listen inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
anvil unix - - n - 1 anvil
smtp unix - - n - - smtp
scache unix - - n - 1 scache
error unix - - n - - error
retry unix - - n - - error
postlog unix-dgram n - n - 1 postlogd
CONF
    # What is started is a script that waits for its child, the master. That is asked to end, also if we are told to before
    # it has started.
    local is_ending=no
    MASTER=$place/queue/pid/master.pid
    trap 'is_ending=yes' TERM INT
    postfix -c "$etc" start-fg &
    await 30 test -s "$MASTER" || {
        kill "$!"
        die "its master does not start"
    }
    trap end_master TERM INT
    [ "$is_ending" = no ] || end_master
    until wait; do :; done
}

end_master() { kill -TERM "$(tr -d ' ' <"$MASTER")"; }

main_relay "$@"
