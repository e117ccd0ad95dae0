"""A name server that knows one address (RFC 1035), or a question to it.

Usage: names.py serve ADDRESS | ask ADDRESS NAME
"""

import socket
import struct
import sys

KNOWN = "192.0.2.25"
PORT = 53
# Behind the header: type A, class IN.
A_IN = struct.pack("!HH", 1, 1)
# The name is that of the question, at octet 12; it may be kept for a minute.
ANSWER = struct.pack("!H", 0xC00C) + A_IN + struct.pack("!IH", 60, 4) + socket.inet_aton(KNOWN)


def serve(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((address, PORT))
        print("ready", flush=True)
        while True:
            question, asker = udp.recvfrom(512)
            header = question[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0)
            udp.sendto(header + question[12:] + ANSWER, asker)


def ask(address: str, name: str) -> None:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack("!HHHHHH", 4711, 0x0100, 1, 0, 0, 0) + labels + b"\0" + A_IN
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(5)
        udp.sendto(question, (address, PORT))
        answer = udp.recv(512)
    if answer[:2] != question[:2] or not answer.endswith(ANSWER):
        sys.exit("another answer")
    print(socket.inet_ntoa(answer[-4:]))


{"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
