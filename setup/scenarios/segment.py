"""Sends one TCP segment that belongs to no connection, and prints what its receiver answers: flags, or "nothing".

Usage: segment.py FROM TO PORT ACK|SYN
"""

import random
import socket
import struct
import sys

FLAGS = {"FIN": 0x01, "SYN": 0x02, "RST": 0x04, "ACK": 0x10}
# How long an answer may take: it comes from the next host.
WAIT_S = 0.5


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def segment(source: str, target: str, from_port: int, port: int, flags: int) -> bytes:
    fields = [from_port, port, random.getrandbits(32), random.getrandbits(32), 5 << 4, flags, 1024, 0, 0]
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!HH", 6, 20)
    fields[7] = checksum(pseudo + struct.pack("!HHIIBBHHH", *fields))
    return struct.pack("!HHIIBBHHH", *fields)


def main() -> None:
    source, target, port, flags = sys.argv[1], sys.argv[2], int(sys.argv[3]), FLAGS[sys.argv[4]]
    from_port = random.randrange(20000, 30000)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.settimeout(WAIT_S)
        raw.bind((source, 0))
        raw.sendto(segment(source, target, from_port, port, flags), (target, 0))
        while True:
            try:
                packet = raw.recv(2048)
            except TimeoutError:
                print("nothing")
                return
            tcp = packet[(packet[0] & 0x0F) * 4 :]
            if struct.unpack("!HH", tcp[:4]) == (port, from_port):
                print(" ".join(name for name, bit in FLAGS.items() if tcp[13] & bit))
                return


main()
