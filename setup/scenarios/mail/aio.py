"""aiosmtpd as a next hop that speaks SMTP, or LMTP, and keeps what it is given. Runs in aiosmtpd's venv."""

import asyncio
import signal

from aiosmtpd import lmtp, smtp

from . import recorder


class Handler:
    """Its desk keeps each mail; parameters are as aiosmtpd understood them."""

    def __init__(self, desk):
        self.desk = desk

    async def handle_RCPT(self, _server, _session, envelope, address, options):
        if recorder.is_unknown(address):
            return "550 5.1.1 Nobody has that name"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, _server, _session, envelope):
        parameters = "".join(f" {option}" for option in envelope.mail_options)
        # aiosmtpd calls the null reverse-path <>.
        sender = envelope.mail_from.removeprefix("<>")
        lines = [f"MAIL FROM:<{sender}>{parameters}"]
        lines += [f"RCPT TO:<{recipient}>" for recipient in envelope.rcpt_tos]
        content = envelope.original_content
        self.desk.keep(lines, content)
        if not self.desk.lmtp:
            return "250 2.0.0 Kept"
        # aiosmtpd sends this as it is; LMTP wants a reply for each recipient (RFC 2033 §4.2).
        return "\r\n".join("250 2.0.0 Kept" for _ in envelope.rcpt_tos)


async def serve(ports):
    """`ports`: (host, port, desk). Until SIGTERM."""
    loop = asyncio.get_running_loop()
    servers = []
    for host, port, desk in ports:
        kind = lmtp.LMTP if desk.lmtp else smtp.SMTP

        def session(kind=kind, desk=desk):
            return kind(
                Handler(desk),
                data_size_limit=recorder.CONTENT_MAX,
                enable_SMTPUTF8=True,
                hostname="aiosmtpd.example",
                loop=loop,
            )

        servers.append(await loop.create_server(session, host, port))
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    for server in servers:
        server.close()
