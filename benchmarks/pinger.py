"""Ask a host for an ICMP echo every millisecond; a program, to live in a network namespace.

`python -m benchmarks.pinger HOST` writes one line for each answer: when the request was sent and
when the answer came, in seconds of CLOCK_MONOTONIC, which is one clock for all processes.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import time
from typing import Final

from pycolo.demo.client import echo_request, is_echo_reply

EVERY_S: Final = 0.001
_IDENTIFIER: Final = os.getpid() % 65536
_SEQUENCES: Final = 65536


def main(host: str) -> None:
    """Ping until killed."""
    sent_s = [0.0] * _SEQUENCES
    count = 0
    next_s = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        while True:
            if _readable(sock, next_s - time.monotonic()):
                packet = sock.recv(2048)
                answered_s = time.monotonic()
                if is_echo_reply(packet, _IDENTIFIER):
                    print(sent_s[_sequence(packet)], answered_s, flush=True)
            now_s = time.monotonic()
            if now_s >= next_s:
                sequence = count % _SEQUENCES
                sent_s[sequence] = now_s
                with contextlib.suppress(OSError):  # no way to the host: not answered
                    sock.sendto(echo_request(_IDENTIFIER, sequence), (host, 0))
                count += 1
                # Kept up late, it continues from now: a burst would measure nothing.
                next_s = max(next_s + EVERY_S, now_s)


def _readable(sock: socket.socket, limit_s: float) -> bool:
    return bool(select.select([sock], [], [], max(limit_s, 0.0))[0])


def _sequence(packet: bytes) -> int:
    header_bytes = (packet[0] & 15) * 4
    (sequence,) = struct.unpack_from("!H", packet, header_bytes + 6)
    return int(sequence)


if __name__ == "__main__":
    main(*sys.argv[1:])
