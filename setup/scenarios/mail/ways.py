"""Which way mail goes, and what each program on it is documented to do to a mail.

A program that is named here may put its trace on top and make the changes of its function below, and no
others: what arrives has to equal, to the octet, what the functions of the way make of what was sent.
"""

import dataclasses
import re

# RFC 5321 §4.5.3.1.6, without the line's end.
LINE_MAX = 998
# How a header field begins (RFC 5322 §3.6.8).
FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")


class Refusal(Exception):
    """A program does not take the mail, or not for this recipient. Its argument is the program's name."""


@dataclasses.dataclass(frozen=True)
class Way:
    """`programs` have the mail in this order; `desk` is the recorder's port where it has to arrive."""

    domain: str
    desk: str
    programs: tuple
    # The gateway hands it over by LMTP.
    lmtp: bool = False

    @property
    def receiver(self):
        """Whose answers the sender sees."""
        return next(program for program in self.programs if program in TRACES)

    def declares_body(self):
        """Whether a declaration of 8-bit content has to arrive."""
        return not WITHOUT_BODY & {*self.programs}

    def declares_utf8(self):
        """Whether a declaration of SMTPUTF8 has to arrive."""
        return not WITHOUT_UTF8 & {*self.programs}

    def passes_notify(self):
        """Whether what is asked for with DSN has to arrive."""
        return not WITHOUT_NOTIFY & {*self.programs}

    def sender(self, case):
        """Who it comes from: nobody, where only that keeps others from telling (RFC 3461 §5.2.2)."""
        untold = "NOTIFY=NEVER" in case.of_recipient and not (self.lmtp or self.passes_notify())
        return "" if untold else case.sender

    def expected(self, case, recipient):
        """What has to arrive; raises Refusal if nothing may."""
        content = case.wire()
        for program in self.programs:
            # Without SMTPUTF8 it does not take the parameter. The gateway leaves it out for it where
            # it can (RFC 6531 §3.4).
            if program in WITHOUT_UTF8 and case.utf8:
                if program == self.receiver or case.needs_utf8(recipient):
                    raise Refusal(program)
            content = CHANGES[program](case, recipient, content)
        if case.unknown:
            raise Refusal("aiosmtpd" if "aiosmtpd" in self.programs else "the recorder")
        return content

    def told(self, case, recipient):
        """The action of which the sender has to be told; None if of none."""
        if not case.sender or "NOTIFY=NEVER" in case.of_recipient:
            return None
        try:
            self.expected(case, recipient)
        except Refusal as refusal:
            by = refusal.args[0]
            place = self.programs.index(by) if by in self.programs else len(self.programs)
            # The sender hears it by itself, or from who had the mail before; but not if what tells of
            # it is refused for the same line.
            before = self.programs[place - 1] if place > 0 else ""
            return (
                "failed"
                if before in TRACES and not (case.refused and returns_line(before, case))
                else None
            )
        # Who knows no DSN is told nothing of it; who sends there says so (RFC 3461 §5.2.2).
        if "NOTIFY=SUCCESS" not in case.of_recipient or self.passes_notify():
            return None
        return "delivered" if self.lmtp else "relayed"

    def without_trace(self, content):
        """What arrived, without what the programs put on top of it; None if that is not there."""
        for program in reversed(self.programs):
            if program not in TRACES:
                continue
            found = TRACES[program].match(content)
            if not found:
                return None
            content = content[found.end() :]
        return content


WAYS = {
    "raw": Way("raw.example", "gateway", ("gateway",)),
    "bdat": Way("bdat.example", "gateway", ("gateway",)),
    "from-postfix": Way("from-postfix.example", "gateway", ("postfix", "gateway")),
    "from-opensmtpd": Way("from-opensmtpd.example", "gateway", ("opensmtpd", "gateway")),
    "from-exim": Way("from-exim.example", "gateway", ("exim", "gateway")),
    "to-postfix": Way("postfix.example", "postfix", ("gateway", "postfix")),
    "to-opensmtpd": Way("opensmtpd.example", "opensmtpd", ("gateway", "opensmtpd")),
    "to-exim": Way("exim.example", "exim", ("gateway", "exim")),
    "to-aiosmtpd": Way("aiosmtpd.example", "aiosmtpd", ("gateway", "aiosmtpd")),
    "to-lmtp": Way("lmtp.example", "lmtp", ("gateway",), lmtp=True),
    "to-aiosmtpd-lmtp": Way(
        "aiosmtpd-lmtp.example", "aiosmtpd-lmtp", ("gateway", "aiosmtpd"), lmtp=True
    ),
    "smtplib": Way("smtplib.example", "gateway", ("smtplib", "gateway")),
    "nodemailer": Way("nodemailer.example", "gateway", ("nodemailer", "gateway")),
    "curl": Way("curl.example", "gateway", ("curl", "gateway")),
    "swaks": Way("swaks.example", "gateway", ("swaks", "gateway")),
}
# They carry 8-bit content as it is, and do not declare it, or do not pass on that it was declared.
WITHOUT_BODY = {"opensmtpd", "exim", "curl", "swaks"}
WITHOUT_NOTIFY = {"aiosmtpd"}
WITHOUT_UTF8 = {"opensmtpd"}


def returns_line(program, case):
    """Whether its report returns the line for which the gateway refused the mail: Exim the header,
    OpenSMTPD all of it. Postfix folds it."""
    header = case.content.split(b"\r\n\r\n")[0]
    in_header = max(map(len, header.split(b"\r\n"))) > LINE_MAX
    return program == "opensmtpd" or program == "exim" and in_header


def gateway(_case, _recipient, content):
    """Changes nothing; takes no line that is too long (RFC 5321 §4.5.3.1.6)."""
    if max(map(len, content.split(b"\r\n"))) > LINE_MAX:
        raise Refusal("gateway")
    return content


def postfix(_case, _recipient, content):
    """Ends the header where a line is no field (cleanup), and folds long lines as smtp_line_length_limit
    says."""
    if content and not content.startswith(b"\r\n") and not FIELD.match(content):
        content = b"\r\n" + content
    folded = []
    for line in content.split(b"\r\n"):
        while len(line) > LINE_MAX:
            folded.append(line[:LINE_MAX])
            line = b" " + line[LINE_MAX:]
        folded.append(line)
    return b"\r\n".join(folded)


def opensmtpd(case, recipient, content):
    """Takes no header that is none, and no quoted local part; adds Date and Message-ID behind a header
    without them; keeps of each line what stands before a NUL."""
    local = recipient.rsplit("@", 1)[0]
    if local.startswith('"') or case.sender.startswith('"'):
        raise Refusal("opensmtpd")
    if content and not content.startswith(b"\r\n") and not FIELD.match(content):
        raise Refusal("opensmtpd")
    return re.sub(rb"\0[^\r\n]*", b"", content)


def exim(_case, _recipient, content):
    """Ends every header with an empty line, also where there is none or where a line is no field."""
    lines = content.split(b"\r\n")
    for number, line in enumerate(lines[:-1]):
        if line == b"":
            return content
        if not FIELD.match(line) and not (number > 0 and line[:1] in b" \t"):
            return b"\r\n".join([*lines[:number], b"", *lines[number:]])
    return content + b"\r\n"


def ended(_case, _recipient, content):
    """Ends a mail with CRLF, also where there is no line."""
    return content or b"\r\n"


def unchanged(_case, _recipient, content):
    """Changes nothing."""
    return content


CHANGES = {
    "gateway": gateway,
    "postfix": postfix,
    "opensmtpd": opensmtpd,
    "exim": exim,
    "aiosmtpd": unchanged,
    "smtplib": ended,
    "nodemailer": ended,
    "curl": unchanged,
    "swaks": unchanged,
}


def received(by):
    """One Received field of that host, folded as it likes."""
    value = rb"(?:[^\r\n]|\r\n[ \t])*"
    return re.compile(rb"Received: " + value + rb"\bby " + re.escape(by) + rb"\b" + value + rb"\r\n")


# What the servers among them put on top (RFC 5321 §4.4).
TRACES = {
    "gateway": received(b"gw1.example"),
    "postfix": received(b"postfix.example"),
    "opensmtpd": received(b"opensmtpd.example"),
    "exim": received(b"exim.example"),
}
# What OpenSMTPD adds to a header without it.
ADDED = re.compile(
    rb"(?P<date>Date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000 \(UTC\)\r\n)"
    rb"(?P<id>Message-ID: <[0-9a-f]+@opensmtpd\.example>\r\n)"
)


def without_added(program, sent, arrived):
    """What arrived, without the fields with changing values that the program added to what was sent."""
    if program != "opensmtpd" or re.search(rb"(?im)^Message-ID:", sent.split(b"\r\n\r\n", 1)[0]):
        return arrived
    return ADDED.sub(b"", arrived, count=1)
