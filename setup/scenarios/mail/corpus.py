"""Mails that are hard to carry, each with its envelope.

A case is a mail as it goes over the wire: lines ended by CRLF, before dot-stuffing. Its first recipient
names it, so that what arrives is matched with what was sent by the envelope alone. What the gateway is
to do with it follows from the RFCs: `refused` cases must never be carried, all others must arrive.
"""

import dataclasses
import functools
import random

SENDER = "sender@client.example"
# Octets of the largest mail.
LARGEST = 10_000_000
# Recipients of the mail to thousands, and how many one transaction at the gateway may have.
THOUSANDS = 3_000
PER_TRANSACTION = 1_000


@dataclasses.dataclass(frozen=True)
class Case:
    """One mail. `locals` are the local parts of its recipients; the domain says which way it goes."""

    name: str
    content: bytes
    locals: tuple = ()
    sender: str = SENDER
    # Declared as BODY=8BITMIME.
    eight_bit: bool = False
    # SMTPUTF8 is needed: for an address or for header fields.
    utf8: bool = False
    # What it asks for with DSN (RFC 3461), in MAIL, and in RCPT with the recipient for {}.
    parameters: tuple = ()
    of_recipient: str = ""
    # The server at the end knows nobody by this name.
    unknown: bool = False
    # A gateway that keeps to RFC 5321 and RFC 5322 refuses it.
    refused: bool = False

    def local_parts(self):
        return self.locals or (self.name,)

    def needs_utf8(self, recipient):
        """Whether it cannot go to this recipient without SMTPUTF8."""
        header = self.content.split(b"\r\n\r\n")[0]
        return not (self.sender.isascii() and recipient.isascii() and header.isascii())

    def wire(self):
        """The content as lines: DATA cannot carry a last line without its end."""
        if self.content and not self.content.endswith(b"\r\n"):
            return self.content + b"\r\n"
        return self.content


def cases():
    """All of them, always the same."""
    return [*shapes(), *bodies(), *headers(), *addresses(), *notifications(), *large()]


@functools.cache
def by_name():
    return {case.name: case for case in cases()}


def shapes():
    """Mails that lack something that mails have."""
    yield Case("empty", b"")
    yield Case("one-letter", b"a")
    yield Case("one-dot", b".")
    yield Case("one-line-end", b"\r\n")
    yield Case("header-only", head("header-only").removesuffix(b"\r\n"))
    yield Case("header-and-empty-line", head("header-and-empty-line"))
    yield Case("header-unended", b"Subject: header-unended")
    yield Case("body-only", b"\r\nThere is no header.\r\n")
    yield Case("body-that-is-no-header", b"This is no header\r\nNor is this\r\n\r\nThis is text.\r\n")
    yield Case("no-final-newline", head("no-final-newline") + b"the last line has no end")


def bodies():
    """Every body that has ever hurt a relay."""
    yield text("final-newlines", b"\r\n\r\n\r\nempty lines around\r\n\r\n\r\n\r\n")
    yield text("dots-only", b".\r\n..\r\n...\r\n.\r\n.\r\n")
    yield text("dots-many", b".\r\n" * 10_000)
    yield text("dots-first", b".begins with a dot\r\n..with two\r\n. \r\nends with a dot.\r\n")
    yield text("dot-last", b"The last line is a dot\r\n.")
    yield text("commands", b"text\r\n.\r\nQUIT\r\n.\r\nMAIL FROM:<a@b.example>\r\nDATA\r\n")
    yield text("from-lines", b"From somebody Mon Jan  1 00:00:00 2024\r\n>From there\r\nFrom: x\r\n")
    yield text("lines-998", b"x" * 998 + b"\r\n." + b"y" * 997 + b"\r\n" + b"." * 998 + b"\r\n")
    yield text("lines-999", b"x" * 999 + b"\r\n", refused=True)
    yield text("trailing-blanks", b"tab\t and trailing blanks  \t\r\n \r\n\t\r\n")
    yield text("controls", bytes(set(range(1, 0x20)) - {0x0A, 0x0D}) + b"\x7f\r\n")
    yield text("nul", b"before\0after\r\n\0\r\n")
    yield text("eight-bit", "Grüße, 飛脚, Привет\r\n".encode(), eight_bit=True)
    yield text("eight-bit-undeclared", "Grüße, 飛脚, Привет\r\n".encode())
    yield text("eight-bit-all", bytes(range(0x80, 0x100)) + b"\r\n", eight_bit=True)
    yield nested("nested", 50)
    yield nested("nested-deep", 400)
    yield text("end-inside", b"\xef\xbb\xbf\r\n=2E\r\n=0D=0A.=0D=0A\r\n", eight_bit=True)


def headers():
    """Header fields as nobody should write them."""
    folded = b"\r\n ".join(b"<%04d@references.example>" % number for number in range(2_000))
    yield head_with("header-folded", b"References: " + folded)
    yield head_with("header-line-998", b"X-Long: " + b"x" * 990)
    yield head_with("header-line-999", b"X-Long: " + b"x" * 991, refused=True)
    many = b"\r\n".join(b"X-Field-%d: value" % number for number in range(1_000))
    yield head_with("header-fields-many", many)
    hops = b"\r\n".join(
        b"Received: from a%d.example by b%d.example; Mon, 1 Jan 2024 00:00:00 +0000" % (number, number)
        for number in range(20)
    )
    yield head_with("header-hops", hops)
    yield head_with("header-latin-1", "X-Name: Grüße".encode("latin-1"), eight_bit=True)
    yield head_with("header-utf-8", "X-Name: Grüße 飛脚".encode(), eight_bit=True, utf8=True)
    yield head_with("header-odd", b"X-Empty:\r\nX-Blank: \r\nx-TABS:\t\tvalue\t\r\nX-Folded:\r\n value")
    yield head_with("header-twice", b"Subject: twice\r\nTo: <other@client.example>")


def addresses():
    """Envelopes."""
    yield text("null-sender", b"from nobody\r\n", sender="")
    yield text(
        "addresses",
        b"to many forms\r\n",
        locals=(
            "addresses",
            "plus+tag",
            "slash/and/more",
            "equals=sign",
            "dash-",
            "under_score",
            "12345",
            "a.b.c",
            "UPPER.lower",
            "!#$%&'*-/=?^_`{|}~",
            "x" * 64,
            '"quoted"',
            '"two words"',
            '"a@b"',
            '"back\\\\slash"',
            '"quote\\"inside"',
            '"dot..dot"',
            '".dot"',
            '"<angles>"',
            '"comma,colon:"',
        ),
    )
    yield text("sender-plus", b"from a form\r\n", sender="user+tag=x/y@client.example")
    yield text("sender-quoted", b"from a form\r\n", sender='"two words"@client.example')
    yield text("sender-verp", b"from a form\r\n", sender="list-bounces+a=b.example@client.example")
    yield text(
        "utf8-recipient", b"to UTF-8\r\n", locals=("utf8-recipient", "配達人", "grüße+é"), utf8=True
    )
    yield text("utf8-sender", b"from UTF-8\r\n", sender="飛脚@client.example", utf8=True)
    yield text(
        "utf8-all",
        "Grüße\r\n".encode(),
        sender="Мария@client.example",
        locals=("utf8-all", "用户"),
        utf8=True,
        eight_bit=True,
    )
    yield text(
        "thousands",
        b"to thousands\r\n",
        locals=tuple(f"thousands-{number}" for number in range(THOUSANDS)),
    )


def notifications():
    """Mail whose senders want to hear of it, or do not."""
    envelope = ("RET=HDRS", "ENVID=QQ+2B314159")
    original = "ORCPT=rfc822;first+2B{}"
    yield text(
        "notify-success",
        b"tell me\r\n",
        parameters=envelope,
        of_recipient=f"NOTIFY=SUCCESS,FAILURE {original}",
    )
    yield text("notify-never", b"do not tell me\r\n", of_recipient="NOTIFY=NEVER")
    yield text("unknown", b"to nobody\r\n", unknown=True)
    yield text(
        "unknown-notify",
        b"to nobody\r\n",
        unknown=True,
        parameters=envelope,
        of_recipient=f"NOTIFY=FAILURE,DELAY {original}",
    )
    yield text("unknown-never", b"to nobody\r\n", unknown=True, of_recipient="NOTIFY=NEVER")
    yield text("unknown-null-sender", b"to nobody\r\n", unknown=True, sender="")
    yield text("unknown-returned", lines(100_000), unknown=True, eight_bit=True)


def large():
    """Sizes up to 10 MB."""
    for size in (1_000, 4_096, 10_000, 65_536, 100_000, 1_000_000):
        yield text(f"size-{size}", lines(size), eight_bit=True)
    yield attachment("attachment-10-mb", LARGEST)


def head(name, extra=b"", recipient="recipient@example.net"):
    """The header that MTAs find nothing to add to, with the empty line behind it."""
    fields = (
        f"From: <{SENDER}>\r\nTo: <{recipient}>\r\nSubject: {name}\r\n"
        f"Date: Mon, 1 Jan 2024 12:00:00 +0000\r\nMessage-ID: <{name}@client.example>\r\n"
    )
    return fields.encode() + extra + b"\r\n"


def text(name, body, **options):
    return Case(name, head(name) + body, **options)


def head_with(name, fields, **options):
    return Case(name, head(name, fields + b"\r\n") + b"text\r\n", **options)


def nested(name, depth):
    """A multipart in a multipart in a multipart."""
    inside = b"Content-Type: text/plain\r\n\r\nThe innermost text.\r\n"
    for level in range(depth):
        boundary = b"=_level_%d_.'()+?" % level
        inside = (
            b'Content-Type: multipart/mixed; boundary="%s"\r\n\r\nPreamble.\r\n--%s\r\n%s\r\n--%s--\r\n'
            % (boundary, boundary, inside, boundary)
        )
    fields, body = inside.split(b"\r\n\r\n", 1)
    return Case(name, head(name, b"MIME-Version: 1.0\r\n" + fields + b"\r\n") + body)


def attachment(name, size):
    """Base64 of random octets, in lines of 76, `size` octets in all."""
    chooser = random.Random(name)
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    block = b"".join(bytes(chooser.choices(alphabet, k=76)) + b"\r\n" for _ in range(1_000))
    fields = (
        b"MIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Transfer-Encoding: base64\r\n"
    )
    start = head(name, fields)
    body = (block * (size // len(block) + 1))[: size - len(start)]
    return Case(name, start + body.removesuffix(b"\r"))


def lines(size):
    """Lines of all lengths, some of which begin with dots or are not ASCII; `size` octets in all."""
    chooser = random.Random(size)
    letters = bytes(range(0x20, 0x7F)) + bytes(range(0xA0, 0x100))
    block = bytearray()
    while len(block) < min(size, 100_000):
        block += chooser.choice([b"", b"", b"", b".", b".."])
        block += bytes(chooser.choices(letters, k=chooser.choice([0, 1, 20, 76, 990])))
        block += b"\r\n"
    content = bytes(block) * (size // len(block) + 1)
    # A cut through a line end would leave a bare CR.
    return content[: size - 2].rstrip(b"\r\n").ljust(size - 2, b"z") + b"\r\n"
