#!/usr/bin/env bash
# private.sh PROGRAMS ETC COMMAND…: runs a mail server that wants to be the machine's own with an /etc,
# /var, /run and /usr/libexec of its own, which go when it ends. To be run as root by
#     unshare --mount --pid --fork --kill-child --mount-proc --propagation private
# PROGRAMS has what Debian's packages hold, unpacked: /var/programs there. The files of the directory
# ETC lie in /etc. Of the machine's users there are root and nobody, and those that mail servers want.
set -euo pipefail

main() {
    local programs=$1 etc=$2 kept
    shift 2
    # What the C library wants to know.
    kept=$(mktemp -d)
    cp -L /etc/ld.so.cache /etc/services /etc/protocols "$kept"
    cp -R "$etc"/. "$kept"
    mount -t tmpfs -o mode=755 none /etc
    cp -R "$kept"/. /etc
    rm -r "$kept"
    mount -t tmpfs -o mode=755 none /var
    mount -t tmpfs -o mode=755 none /run
    ln -s /run /var/run
    mkdir /var/programs /var/tmp /var/mail /var/lib /var/log /var/spool
    # As PATH_LIBEXEC is compiled in; what the machine has there is not needed.
    mount --bind "$programs" /var/programs
    if [ -d "$programs/usr/libexec" ]; then
        mount --bind "$programs/usr/libexec" /usr/libexec
    fi
    cat >/etc/passwd <<PASSWD
root:x:0:0:root:/var/empty:/bin/sh
nobody:x:65534:65534:nobody:/var/empty:/bin/false
Debian-exim:x:901:901::/var/empty:/bin/false
opensmtpd:x:902:902::/var/lib/opensmtpd/empty:/bin/false
opensmtpq:x:903:903::/var/lib/opensmtpd/empty:/bin/false
PASSWD
    cat >/etc/group <<GROUP
root:x:0:
mail:x:8:
nogroup:x:65534:
Debian-exim:x:901:
opensmtpd:x:902:
opensmtpq:x:903:
GROUP
    printf 'passwd: files\ngroup: files\nhosts: files\n' >/etc/nsswitch.conf
    printf '127.0.0.1 localhost\n' >/etc/hosts
    # Of OpenSMTPD's own resolver: it would ask a name server on this host, which is not there.
    printf 'lookup file\n' >/etc/resolv.conf
    mkdir -p /var/lib/opensmtpd/empty /var/spool/smtpd /var/spool/exim
    chmod 711 /var/spool/smtpd
    chown Debian-exim:Debian-exim /var/spool/exim
    "$@" &
    # The first process of its name space: when it ends, so do all others in there.
    trap 'exit 0' TERM
    wait "$!"
}

main "$@"
