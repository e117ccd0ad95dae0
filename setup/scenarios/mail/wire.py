"""A client of SMTP that sends exactly the octets that it is told to send."""

import re
import socket

# Seconds without a word after which a server is given up.
PATIENCE = 60


class Refused(Exception):
    """A command was not answered as it had to be for the session to go on."""


class Client:
    """One session. Each command returns the code and the text of its answer."""

    def __init__(self, address, name="raw.example"):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host.strip("[]"), int(port)), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.need(220, self.answer())
        answer = self.need(250, self.command(f"EHLO {name}"))
        # Keyword and parameters of each extension, in capitals.
        self.extensions = {
            line.split()[0]: " ".join(line.split()[1:])
            for line in answer[1].upper().splitlines()[1:]
            if line
        }

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    @staticmethod
    def need(code, answer):
        if answer[0] != code:
            raise Refused(f"{answer[0]} {answer[1]}")
        return answer

    def offers(self, keyword):
        return keyword in self.extensions

    def answer(self):
        """One reply, of one line or of several."""
        texts = []
        while True:
            line = self.file.readline()
            found = re.fullmatch(rb"([2-5][0-9][0-9])([ -]?)(.*)\r\n", line)
            if not found:
                raise Refused(f"this is no reply: {line!r}")
            texts.append(found[3].decode("utf-8", "replace"))
            if found[2] != b"-":
                return int(found[1]), "\n".join(texts)

    def command(self, line):
        self.socket.sendall(line.encode() + b"\r\n")
        return self.answer()

    def commands(self, lines):
        """Many commands at once if the server offers PIPELINING, or else in their turn."""
        if not self.offers("PIPELINING"):
            return [self.command(line) for line in lines]
        answers = []
        # Not more than the buffers of both sides hold, or both would wait for ever.
        for start in range(0, len(lines), 100):
            part = lines[start : start + 100]
            self.socket.sendall("".join(line + "\r\n" for line in part).encode())
            answers += [self.answer() for _ in part]
        return answers

    def data(self, wire):
        """DATA, dot-stuffed; `wire` ends with CRLF or is empty."""
        answer = self.command("DATA")
        if answer[0] != 354:
            return answer
        self.socket.sendall(re.sub(rb"(^|\r\n)\.", rb"\1..", wire) + b".\r\n")
        return self.answer()

    def bdat(self, content, sizes):
        """BDAT in chunks of these sizes, as long as there is more; the rest is the last. Returns the first
        bad answer or the last."""
        for size in sizes:
            answer = self.chunk(content[:size], "")
            if answer[0] != 250:
                # What the server makes of the rest is open (RFC 3030 §2).
                self.command("RSET")
                return answer
            content = content[size:]
        return self.chunk(content, " LAST")

    def chunk(self, content, last):
        self.socket.sendall(b"BDAT %d%s\r\n" % (len(content), last.encode()) + content)
        return self.answer()

    def quit(self):
        self.command("QUIT")


def transaction(client, case, recipients, chunks=None):
    """One mail to these recipients, by DATA, or by BDAT in chunks of these sizes. Returns the code and
    text for each of them."""
    line = f"MAIL FROM:<{case.sender}>"
    if case.eight_bit and client.offers("8BITMIME"):
        line += " BODY=8BITMIME"
    if case.utf8:
        line += " SMTPUTF8"
    line = " ".join([line, *case.parameters])
    suffix = f" {case.of_recipient}".rstrip()
    lines = [f"RCPT TO:<{recipient}>{suffix.format(recipient)}" for recipient in recipients]
    mail, *answers = client.commands([line, *lines])
    if mail[0] != 250:
        client.command("RSET")
        return dict.fromkeys(recipients, mail)
    outcomes = dict(zip(recipients, answers))
    if not any(code == 250 for code, _ in answers):
        client.command("RSET")
        return outcomes
    if chunks is None:
        answer = client.data(case.wire())
    else:
        answer = client.bdat(case.content, chunks)
    return {
        recipient: answer if code == 250 else (code, text)
        for recipient, (code, text) in outcomes.items()
    }
