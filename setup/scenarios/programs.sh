# shellcheck shell=bash
# Mail servers of others, each with configuration, spool and users of its own, on loopback only. What
# they get for a domain of their own they hand over to a recorder (by LMTP; OpenSMTPD, which
# expects one answer for several recipients there, by SMTP); all else goes to the gateway.
# To be sourced after lib.sh and system.sh; `begin` was called and GATEWAY is set.

# Addresses, set by those who start them.
POSTFIX=
OPENSMTPD=
EXIM=

# start_postfix [RECORDER]: without a recorder everything goes to the gateway.
start_postfix() {
    local etc=$SCRATCH/postfix/etc maps='' port
    port=$(free_ports 1)
    POSTFIX=127.0.0.1:$port
    [ $# -eq 0 ] || maps="inline:{ { postfix.example = lmtp:inet:[${1%:*}]:${1##*:} } }"
    mkdir -p "$etc" "$SCRATCH/postfix/queue" "$SCRATCH/postfix/data"
    # Its processes give up root: they have to get through to their files.
    chmod 755 "$SCRATCH" "$SCRATCH/postfix"
    chown postfix "$SCRATCH/postfix/data"
    cat >"$etc/main.cf" <<END
compatibility_level = 3.6
queue_directory = $SCRATCH/postfix/queue
data_directory = $SCRATCH/postfix/data
maillog_file = $SCRATCH/postfix.log
maillog_file_prefixes = $SCRATCH
myhostname = postfix.example
mydestination =
alias_maps =
local_recipient_maps =
transport_maps = $maps
inet_interfaces = loopback-only
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
relayhost = [${GATEWAY%:*}]:${GATEWAY##*:}
message_size_limit = 20971520
smtpd_recipient_limit = 5000
# What clients send is passed on as it is.
local_header_rewrite_clients =
disable_mime_output_conversion = yes
END
    cat >"$etc/master.cf" <<END
$POSTFIX inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
lmtp unix - - n - - lmtp
scache unix - - n - 1 scache
error unix - - n - - error
retry unix - - n - - error
postlog unix-dgram n - n - 1 postlogd
END
    start postfix postfix -c "$etc" start-fg
    await_port postfix "$POSTFIX"
    # What was started is a script; the process to end is its child.
    tr -d ' ' <"$SCRATCH/postfix/queue/pid/master.pid" >"$SCRATCH/postfix.pid"
    STARTED+=("$(pid_of postfix)")
}

# start_opensmtpd RECORDER
start_opensmtpd() {
    local etc=$SCRATCH/opensmtpd
    OPENSMTPD=127.0.0.1:$(free_ports 1)
    mkdir "$etc"
    printf 'opensmtpd.example\n' >"$etc/mailname"
    cat >"$etc/smtpd.conf" <<END
listen on ${OPENSMTPD%:*} port ${OPENSMTPD##*:} hostname opensmtpd.example
smtp max-message-size 20M
action "record" relay host "smtp://$1"
action "gateway" relay host "smtp://$GATEWAY" helo opensmtpd.example
match from any for domain "opensmtpd.example" action "record"
match from any for any action "gateway"
END
    start_private opensmtpd "$PROGRAMS/opensmtpd" "$etc" \
        /var/programs/usr/sbin/smtpd -d -f /etc/smtpd.conf
    await_port opensmtpd "$OPENSMTPD"
}

# start_exim RECORDER
start_exim() {
    local etc=$SCRATCH/exim log
    EXIM=127.0.0.1:$(free_ports 1)
    mkdir -p "$etc/exim4"
    for log in main reject panic; do
        : >"$SCRATCH/exim-$log.log"
        chmod 666 "$SCRATCH/exim-$log.log"
    done
    cat >"$etc/exim4/exim4.conf" <<END
exim_path = /var/programs/usr/sbin/exim4
spool_directory = /var/spool/exim
log_file_path = $SCRATCH/exim-%s.log
primary_hostname = exim.example
keep_environment =
acl_smtp_rcpt = accept
acl_smtp_data = accept
host_lookup =
rfc1413_hosts =
tls_advertise_hosts =
dsn_advertise_hosts = *
smtputf8_advertise_hosts = *
allow_utf8_domains = true
message_size_limit = 20M
smtp_accept_max = 100
smtp_accept_queue_per_connection = 0
recipients_max = 5000
return_path_remove = false
begin routers
record:
  driver = manualroute
  domains = exim.example
  transport = record
  route_list = * ${1%:*} byname
  self = send
gateway:
  driver = manualroute
  transport = gateway
  route_list = * ${GATEWAY%:*} byname
  self = send
begin transports
record:
  driver = smtp
  protocol = lmtp
  port = ${1##*:}
  allow_localhost = true
  max_rcpt = 1000
gateway:
  driver = smtp
  port = ${GATEWAY##*:}
  allow_localhost = true
  max_rcpt = 1000
begin retry
* * F,1h,1s
END
    start_private exim "$PROGRAMS/exim" "$etc" \
        /var/programs/usr/sbin/exim4 -bdf -q1m \
        -oX "<; [${EXIM%:*}]:${EXIM##*:}" -oP /run/exim.pid
    await_port exim "$EXIM"
}

# start_private NAME PROGRAMS ETC COMMAND…: starts it as private.sh does.
start_private() {
    local name=$1 outer
    shift
    chmod 755 "$SCRATCH"
    start "$name" unshare --mount --pid --fork --kill-child --mount-proc --propagation private \
        "$(dirname "${BASH_SOURCE[0]}")/private.sh" "$@"
    outer=$(pid_of "$name")
    await 10 has_child "$outer" || die "$name did not start"
    # The process to end is the first in the name space.
    children_of "$outer" >"$SCRATCH/$name.pid"
    STARTED+=("$(pid_of "$name")")
}

has_child() { [ -n "$(children_of "$1")" ]; }

children_of() { tr -d ' ' <"/proc/$1/task/$1/children"; }

# prepare_mail: what the commands of mail/ below need.
prepare_mail() {
    mkdir "$SCRATCH/mail"
    # Less than usual, to start sooner.
    set_key kvs-a memory '"256 MiB"'
    set_key kvs-b memory '"256 MiB"'
    mail self-test
}

# mail COMMAND…: see mail/__main__.py.
mail() { PYTHONPATH=$ROOT/setup/scenarios PYTHONDONTWRITEBYTECODE=1 python3 -m mail "$@"; }

# start_recorder NAME=smtp|lmtp:HOST:PORT…
start_recorder() {
    local address=${1#*:}
    start recorder env PYTHONPATH="$ROOT/setup/scenarios" PYTHONDONTWRITEBYTECODE=1 \
        python3 -m mail record "$SCRATCH/mail" "$@"
    await_port recorder "$address"
}

# start_aiosmtpd NAME=smtp|lmtp:HOST:PORT…
start_aiosmtpd() {
    start aiosmtpd env PYTHONPATH="$ROOT/setup/scenarios" PYTHONDONTWRITEBYTECODE=1 \
        "$PROGRAMS/python/bin/python" -m mail aio "$SCRATCH/mail" "$@"
    await_port aiosmtpd "${1#*:}"
}

# send WAY ADDRESS: all odd mails, by that way.
send() {
    say "${1//-/ }"
    NODE_PATH=$PROGRAMS/node/node_modules mail send "$SCRATCH/journal" "$1" "$2"
}

# check_mail SECONDS [OPTION…]: all that was sent arrives within that time, and nothing else.
check_mail() {
    mail check "$SCRATCH/mail" "$SCRATCH/journal" --within "$@" || die "see above"
    say "everything arrived as it was sent"
}

require_root() {
    if [ "$(id -u)" -ne 0 ]; then
        skip "mail servers want root; run this as root"
    fi
}

# require_programs NAME…: what setup/install.sh --test put to $PROGRAMS.
require_programs() {
    local name
    for name in "$@"; do
        [ -d "$PROGRAMS/$name" ] || die "$name is missing: run setup/install.sh --test"
    done
}
