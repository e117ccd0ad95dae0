"""A next hop that keeps what it is given, to the octet, and complains about what no client may send.

It speaks SMTP, and LMTP on ports of its own. Each transaction becomes NUMBER.eml and NUMBER.envelope
(`MAIL FROM:<…> PARAMETERS`, `RCPT TO:<…> PARAMETERS`) in the directory of its port; what broke the
protocol is a line of `complaints` there.
"""

import asyncio
import re
import signal
import socket

# Content beyond this breaks the connection.
CONTENT_MAX = 64 << 20
OFFERS = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN", "SMTPUTF8", "SIZE 67108864")
# RFC 5321 §4.5.3.1.4 has 512 octets; parameters of DSN (RFC 3461 §4.2) and SMTPUTF8 may add some.
COMMAND_MAX = 2_000
TEXT_LINE_MAX = 998


class Desk:
    """One port: where its mails are put, and their numbers."""

    def __init__(self, directory, lmtp, offers=OFFERS):
        self.directory = directory
        self.lmtp = lmtp
        self.offers = offers
        self.count = 0
        directory.mkdir(parents=True, exist_ok=True)

    def keep(self, envelope, content):
        self.count += 1
        stem = self.directory / f"{self.count:08}"
        stem.with_suffix(".envelope").write_text("".join(line + "\n" for line in envelope))
        # The content comes last and at once: when it is there the mail is complete.
        partial = stem.with_suffix(".partial")
        partial.write_bytes(content)
        partial.rename(stem.with_suffix(".eml"))

    def complain(self, text):
        with open(self.directory / "complaints", "a", encoding="utf-8") as file:
            file.write(text + "\n")


class Input:
    """What a connection sends, by lines and by mails."""

    def __init__(self, reader):
        self.reader = reader
        self.buffer = bytearray()

    async def until(self, end):
        """Takes everything up to `end`, and `end`."""
        start = 0
        while (found := self.buffer.find(end, start)) < 0:
            start = max(start, len(self.buffer) - len(end) + 1)
            octets = await self.reader.read(1 << 18)
            if not octets or len(self.buffer) > CONTENT_MAX:
                raise ConnectionError("it broke off")
            self.buffer += octets
        taken = bytes(self.buffer[: found + len(end)])
        del self.buffer[: len(taken)]
        return taken

    async def mail(self):
        """What stands before the dot alone on its line, still dot-stuffed."""
        # The end of the line before is part of the end of data (RFC 5321 §4.1.1.4).
        self.buffer[:0] = b"\r\n"
        return (await self.until(b"\r\n.\r\n"))[2:-3]


class Session:
    """One connection."""

    def __init__(self, desk, reader, writer):
        self.desk = desk
        self.input = Input(reader)
        self.writer = writer
        self.envelope = []
        # A recipient of the transaction was refused.
        self.refused = False

    async def run(self):
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.say("220 recorder.example ready")
        try:
            while await self.command():
                # Answers to a pipelined group go out together.
                if not self.input.buffer:
                    await self.writer.drain()
            await self.writer.drain()
        except ConnectionError:
            if self.envelope:
                self.desk.complain(f"broken off in a transaction: {self.envelope[0]}")
        finally:
            self.writer.close()

    def say(self, line):
        self.writer.write(line.encode() + b"\r\n")

    async def command(self):
        """One command. Returns whether the session goes on."""
        line = await self.input.until(b"\n")
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line or len(line) > COMMAND_MAX:
            self.desk.complain(f"an ill-formed command: {line[:200]!r}")
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            self.desk.complain(f"a command that is not UTF-8: {line[:200]!r}")
            text = line.decode("latin-1").rstrip("\r\n")
        verb = text.split(" ")[0].upper()
        if verb == "QUIT":
            self.say("221 2.0.0 Bye")
            return False
        if verb in ("EHLO", "HELO", "LHLO"):
            self.hello(verb, text)
        elif verb in ("MAIL", "RCPT"):
            self.path(verb, text)
        elif verb == "DATA":
            await self.data()
        elif verb in ("RSET", "NOOP"):
            self.envelope, self.refused = [], False
            self.say("250 2.0.0 Ok")
        else:
            self.desk.complain(f"an unknown command: {text[:200]!r}")
            self.say("500 5.5.2 Unknown command")
        return True

    def hello(self, verb, text):
        if (verb == "LHLO") != self.desk.lmtp:
            self.desk.complain(f"the wrong greeting: {text!r}")
        self.envelope = []
        lines = ["recorder.example", *(self.desk.offers if verb != "HELO" else ())]
        for line in lines[:-1]:
            self.say("250-" + line)
        self.say("250 " + lines[-1])

    def path(self, verb, text):
        found = re.fullmatch(
            r"(?:MAIL FROM|RCPT TO):<((?:[^\"<>]|\"(?:[^\"\\]|\\.)*\")*)>(?: [^ ]+)*", text, re.I
        )
        ordered = bool(self.envelope) == (verb == "RCPT")
        if not found or not ordered:
            self.desk.complain(f"an ill-formed or misplaced command: {text[:200]!r}")
            self.say("501 5.5.4 No")
            return
        if not text.isascii() and not any(
            " SMTPUTF8" in line.upper() for line in [*self.envelope[:1], text]
        ):
            self.desk.complain(f"UTF-8 without SMTPUTF8: {text[:200]!r}")
        if verb == "RCPT" and is_unknown(found[1]):
            self.refused = True
            self.say("550 5.1.1 Nobody has that name")
            return
        self.envelope.append(text)
        self.say("250 2.1.0 Ok")

    async def data(self):
        if len(self.envelope) < 2:
            # Who sends many commands at once does not know yet (RFC 2920 §3.1).
            if not self.refused:
                self.desk.complain("DATA without recipients")
            self.envelope, self.refused = [], False
            self.say("503 5.5.1 No recipients")
            return
        self.say("354 Go ahead")
        await self.writer.drain()
        stuffed = await self.input.mail()
        content = re.sub(rb"(^|\r\n)\.", rb"\1", stuffed)
        self.check(stuffed, content)
        self.desk.keep(self.envelope, content)
        for _ in self.envelope[1:] if self.desk.lmtp else [None]:
            self.say("250 2.0.0 Kept")
        self.envelope, self.refused = [], False

    def check(self, stuffed, content):
        where = f"content of {self.envelope[1]}"
        if re.search(rb"(?<!\r)\n|\r(?!\n)", content):
            self.desk.complain(f"a bare CR or LF in the {where}")
        if re.search(rb"(?:^|\n)\.(?!\.)", stuffed):
            self.desk.complain(f"a line that is not dot-stuffed in the {where}")
        if max(map(len, content.split(b"\r\n"))) > TEXT_LINE_MAX:
            self.desk.complain(f"a long line in the {where}")


def is_unknown(address):
    """Some recipients are refused, here and at aiosmtpd: see Case.unknown."""
    return address.startswith("unknown")


async def serve(ports):
    """`ports`: (host, port, desk). Until SIGTERM."""
    servers = []
    for host, port, desk in ports:

        async def session(reader, writer, desk=desk):
            await Session(desk, reader, writer).run()

        servers.append(await asyncio.start_server(session, host, port, backlog=500))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    for server in servers:
        server.close()
