#!/usr/bin/env python3
"""Offers large mails to a gateway, all at once, and says what became of them.

Each mail is one session. A mail that is refused for want of room is offered again a second later,
until all were taken or the time is over. Prints `taken N refused N broken N` at the end; broken are
sessions that ended without an answer, or with one that is neither 2xx nor 452.
"""

import argparse
import asyncio
import sys
import time

CHUNK = b"0123456789abcdef" * 4 + b"\r\n"


class Refused(Exception):
    """The gateway has no room now."""


async def command(reader, writer, line, positive):
    writer.write(line.encode() + b"\r\n")
    await writer.drain()
    reply = await reader.readline()
    while reply[3:4] == b"-":
        reply = await reader.readline()
    if reply.startswith(b"452"):
        raise Refused
    if not reply.startswith(positive):
        raise ConnectionError(f"{line!r} was answered {reply!r}")


async def offer(options, declared):
    reader, writer = await asyncio.open_connection(options.host, options.port)
    try:
        await reader.readline()
        await command(reader, writer, "EHLO large.example", b"250")
        size = f" SIZE={options.size}" if declared else ""
        await command(reader, writer, f"MAIL FROM:<large@example.net>{size}", b"250")
        await command(reader, writer, "RCPT TO:<large@example.net>", b"250")
        await command(reader, writer, "DATA", b"354")
        block = CHUNK * 1000
        for _ in range(options.size // len(block)):
            writer.write(block)
            await writer.drain()
        await command(reader, writer, ".", b"250")
    finally:
        writer.close()


async def deliver(options, number, counts, until):
    while time.monotonic() < until:
        try:
            await offer(options, number % 2 == 0)
            counts["taken"] += 1
            return
        except Refused:
            counts["refused"] += 1
            await asyncio.sleep(1)
        except OSError as error:
            counts["broken"] += 1
            print(error, file=sys.stderr)
            await asyncio.sleep(1)


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--mails", type=int, default=100)
    parser.add_argument("--size", type=int, default=50_000_000)
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    counts = {"taken": 0, "refused": 0, "broken": 0}
    until = time.monotonic() + options.seconds
    await asyncio.gather(*(deliver(options, it, counts, until) for it in range(options.mails)))
    print(" ".join(f"{name} {count}" for name, count in counts.items()))


asyncio.run(main())
