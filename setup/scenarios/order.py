"""Sends a thousand numbered datagrams in bursts, or counts how many come behind a later one.

Usage: order.py send|receive ADDRESS PORT
"""

import socket
import struct
import sys
import time

COUNT = 1000
BURST = 20
# Of a datagram: how long it takes on a slow cable hangs on it.
LENGTH = 1000
# Between bursts, so that no buffer is full.
PAUSE_S = 0.002
# Nothing more comes after such a silence.
SILENCE_S = 1


def send(address: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for number in range(COUNT):
            udp.sendto(struct.pack("!I", number).ljust(LENGTH, b"\0"), address)
            if number % BURST == BURST - 1:
                time.sleep(PAUSE_S)


def receive(address: tuple[str, int]) -> None:
    latest, got, overtaken = -1, 0, 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(address)
        print("ready", flush=True)
        udp.settimeout(10)
        while got < COUNT:
            try:
                (number,) = struct.unpack("!I", udp.recv(LENGTH)[:4])
            except TimeoutError:
                break
            udp.settimeout(SILENCE_S)
            got += 1
            overtaken += number < latest
            latest = max(latest, number)
    print("received", got)
    print("overtaken", overtaken)


{"send": send, "receive": receive}[sys.argv[1]]((sys.argv[2], int(sys.argv[3])))
