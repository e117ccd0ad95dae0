"""Sends odd mail, keeps what arrives, and compares both to the octet.

Nothing here is shared with the gateway or with loadgen: it has its own idea of what mail is.
"""

import argparse
import asyncio
import base64
import json
import pathlib
import sys
import tempfile
import time

from . import check, clients, corpus, options, recorder, self_test, ways

# Seconds between two looks at what has arrived.
INTERVAL = 0.2


def main():
    parser = argparse.ArgumentParser(prog="mail", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser(
        "record", help="keep what comes in at NAME=smtp|lmtp:HOST:PORT in DIR/NAME"
    )
    command.add_argument("dir", type=pathlib.Path)
    command.add_argument("ports", nargs="+")
    command.set_defaults(run=record)
    command = commands.add_parser("aio", help="the same with aiosmtpd, in whose venv this has to run")
    command.add_argument("dir", type=pathlib.Path)
    command.add_argument("ports", nargs="+")
    command.set_defaults(run=aio)
    command = commands.add_parser(
        "send", help="send all cases WAY by HOST:PORT and note the answers in JOURNAL"
    )
    command.add_argument("journal", type=pathlib.Path)
    command.add_argument("way", choices=ways.WAYS)
    command.add_argument("address")
    command.set_defaults(run=send)
    command = commands.add_parser(
        "options", help="send by swaks and curl with many options to HOST:PORT"
    )
    command.add_argument("journal", type=pathlib.Path)
    command.add_argument("address")
    command.set_defaults(run=send_with_options)
    command = commands.add_parser("check", help="compare what is in DIR with JOURNAL, waiting for it")
    command.add_argument("dir", type=pathlib.Path)
    command.add_argument("journal", type=pathlib.Path)
    command.add_argument("--within", type=int, default=60, metavar="SECONDS")
    command.add_argument("--smtp-source", type=int, nargs=2, default=(0, 0), metavar=("COUNT", "BYTES"))
    command.set_defaults(run=compare)
    command = commands.add_parser(
        "self-test", help="alter mails and see that the comparison reports them"
    )
    command.set_defaults(run=lambda _: self_test.run())
    choice = parser.parse_args()
    sys.exit(choice.run(choice))


def record(choice):
    asyncio.run(recorder.serve(desks(choice)))


def aio(choice):
    # What it needs is only in its venv.
    from . import aio as module

    asyncio.run(module.serve(desks(choice)))


def desks(choice):
    ports = []
    for text in choice.ports:
        name, address = text.split("=", 1)
        protocol, host, port = address.split(":")
        ports.append((host, int(port), recorder.Desk(choice.dir / name, protocol == "lmtp")))
    return ports


def send(choice):
    way = ways.WAYS[choice.way]
    client = clients.CLIENTS.get(choice.way, clients.raw)
    mails = []
    for case in corpus.by_name().values():
        recipients = [f"{local}@{way.domain}" for local in case.local_parts()]
        if client is not clients.raw:
            # Only ours knows what to do beyond the server's bound.
            recipients = clients.expressible(choice.way, case, recipients)[: corpus.PER_TRANSACTION]
        if recipients:
            mails.append((case, recipients))
    with open(
        choice.journal, "a", encoding="utf-8"
    ) as journal, tempfile.TemporaryDirectory() as scratch:
        for case, recipient, code, text in client(choice.address, mails, pathlib.Path(scratch)):
            entry = {
                "way": choice.way,
                "case": case.name,
                "recipient": recipient,
                "code": code,
                "text": text,
            }
            journal.write(json.dumps(entry) + "\n")


def send_with_options(choice):
    with open(
        choice.journal, "a", encoding="utf-8"
    ) as journal, tempfile.TemporaryDirectory() as scratch:
        for client in (options.by_swaks, options.by_curl):
            for way, sender, recipients, content in client(choice.address, pathlib.Path(scratch)):
                for recipient in recipients:
                    entry = {
                        "way": way,
                        "sender": sender,
                        "recipient": recipient,
                        "code": 250,
                        "text": "",
                    }
                    journal.write(
                        json.dumps(entry | {"content": base64.b64encode(content).decode()}) + "\n"
                    )


def compare(choice):
    journal = check.read_journal(choice.journal)
    deadline = time.monotonic() + choice.within
    while (
        found := check.problems(choice.dir, journal, *choice.smtp_source)
    ) and time.monotonic() < deadline:
        time.sleep(INTERVAL)
    return check.report(found)


if __name__ == "__main__":
    main()
