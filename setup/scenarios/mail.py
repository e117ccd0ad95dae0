#!/usr/bin/env python3
"""Makes mails that are hard to carry, sends them, and compares what arrived byte for byte.

It has its own idea of what mail is: nothing here is shared with the gateway or with loadgen.

    mail.py make DIR CLIENT [--min BYTES]  writes DIR/CLIENT-*.eml, lines ended by CRLF
    mail.py send ADDRESS:PORT FILE...      sends them with smtplib, in one session
    mail.py compare DUMP DIR [--smtp-source COUNT BYTES]
                                           each mail of DIR, and COUNT mails of smtp-source -l BYTES,
                                           arrived once as DUMP/*.eml, and nothing else did
"""

import argparse
import collections
import hashlib
import pathlib
import random
import re
import smtplib
import sys

SENDER = "sender@client.example"
RECIPIENT = "recipient@example.net"


def main():
    parser = argparse.ArgumentParser(description="See the top of this file.")
    commands = parser.add_subparsers(dest="command", required=True)
    make_options = commands.add_parser("make")
    make_options.add_argument("dir", type=pathlib.Path)
    make_options.add_argument("client")
    make_options.add_argument("--min", type=int, default=1)
    send_options = commands.add_parser("send")
    send_options.add_argument("address")
    send_options.add_argument("files", type=pathlib.Path, nargs="+")
    compare_options = commands.add_parser("compare")
    compare_options.add_argument("dump", type=pathlib.Path)
    compare_options.add_argument("dir", type=pathlib.Path)
    compare_options.add_argument("--smtp-source", type=int, nargs=2, default=(0, 0))
    options = parser.parse_args()
    if options.command == "make":
        make(options.dir, options.client, options.min)
    elif options.command == "send":
        send(options.address, options.files)
    else:
        sys.exit(compare(options.dump, options.dir, *options.smtp_source))


def make(directory, client, smallest):
    """Sizes from one byte to 10 MB, and every shape that has ever hurt a relay."""
    random.seed(client)
    mails = [bytes([random.choice(b"abcdefghij")]), b".", b"..", b"\r\n"]
    head = f"From: <{SENDER}>\r\nTo: <{RECIPIENT}>\r\nSubject: {client}\r\nX-Number: %d\r\n\r\n"
    bodies = [
        b"",
        b"one line without its end",
        b"one line\r\n",
        b".\r\n",
        b".\r\n.\r\n..\r\n...\r\n",
        b"text\r\n.\r\nQUIT\r\n.\r\nMAIL FROM:<a@b>\r\n",
        b".begins with a dot\r\n..with two\r\nends with a dot.\r\n",
        b"\r\n\r\n\r\nempty lines around\r\n\r\n\r\n\r\n",
        b"From at the beginning\r\n>From there\r\n",
        b"x" * 998 + b"\r\n." + b"y" * 997 + b"\r\n",
        "Grüße, 飛脚, Привет\r\n".encode(),
        bytes(range(0x80, 0x100)) + b"\r\n",
        b"tab\t and trailing blanks  \t\r\n \r\n",
    ]
    bodies += [lines(size) for size in (1_000, 4_096, 10_000, 65_536, 100_000, 1_000_000, 10_000_000)]
    mails += [head.encode() % number + body for number, body in enumerate(bodies)]
    for number, mail in enumerate(mails):
        if len(mail) >= smallest:
            (directory / f"{client}-{number:02}.eml").write_bytes(mail)


def lines(size):
    """Lines of all lengths, some of which begin with dots or are not ASCII; `size` bytes in all."""
    # Without the characters that swaks would replace.
    letters = bytes(set(range(0x20, 0x7F)) - set(b"%\\")) + bytes(range(0xA0, 0x100))
    block = bytearray()
    while len(block) < min(size, 100_000):
        block += random.choice([b"", b"", b"", b".", b".."])
        block += bytes(random.choices(letters, k=random.choice([0, 1, 20, 76, 990])))
        block += b"\r\n"
    content = bytes(block) * (size // len(block) + 1)
    # A cut through a line end would leave a bare CR.
    return content[: size - 2].rstrip(b"\r\n").ljust(size - 2, b"z") + b"\r\n"


def send(address, files):
    host, port = address.rsplit(":", 1)
    with smtplib.SMTP(host.strip("[]"), int(port), "python.example", timeout=60) as session:
        for file in files:
            options = ["BODY=8BITMIME"] if session.has_extn("8bitmime") else []
            session.sendmail(SENDER, [RECIPIENT], file.read_bytes(), options)


def compare(dump, directory, source_count, source_bytes):
    expected = collections.Counter()
    names = {}
    for file in directory.iterdir():
        mail = file.read_bytes()
        # Mail data consists of lines: an end that is missing is added by every client.
        mail += b"" if mail.endswith(b"\r\n") else b"\r\n"
        digest = hashlib.sha256(mail).digest()
        expected[digest] += 1
        names[digest] = file.name
    arrived = collections.Counter()
    source_ids = set()
    strangers = []
    for file in dump.glob("*.eml"):
        mail = without_trace(file.read_bytes())
        digest = hashlib.sha256(mail).digest()
        message_id = smtp_source_id(mail, source_bytes)
        if digest in expected:
            arrived[digest] += 1
        elif message_id and message_id not in source_ids:
            source_ids.add(message_id)
        else:
            strangers.append(file)
    for digest, count in expected.items():
        if arrived[digest] != count:
            print(f"{names[digest]}: sent {count} times, arrived {arrived[digest]} times")
    if len(source_ids) != source_count:
        print(f"of {source_count} mails of smtp-source {len(source_ids)} arrived")
    for file in strangers[:10]:
        print(f"nobody sent {file}: {without_trace(file.read_bytes())[:200]!r}")
    return int(expected != arrived or len(source_ids) != source_count or bool(strangers))


def without_trace(mail):
    """The mail without the Received fields at its top."""
    trace = re.match(rb"(?:Received:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)*", mail)
    return mail[trace.end() :]


def smtp_source_id(mail, size):
    """The Message-Id of a mail that is, to the last byte, one of `smtp-source -l size`."""
    pattern = (
        rb"From: <sender@client\.example>\r\nTo: <recipient@example\.net>\r\n"
        rb"Date: [^\r\n]+\r\nMessage-Id: <([^\r\n]+)>\r\n\r\n((?:[0-9]*X+\r\n)+)"
    )
    found = re.fullmatch(pattern, mail)
    # It ends the last of its `size` bytes with a line end of its own.
    if not found or len(found.group(2)) != size + 2:
        return None
    return found.group(1)


if __name__ == "__main__":
    main()
