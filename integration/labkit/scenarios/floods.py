#!/usr/bin/env python3
"""Runs on a supervisor of the lab: one container floods in several ways, one after the other, while
another one of the same host goes on connecting and asking for its address. Prints the figures.

  floods.py PLAN     with probe.py beside it

The plan (JSON): "from" and "innocent": containers; "target": [address, port] that answers;
"seconds" of each flood; "floods": {name: {"frame", "offset", "check"}}, a frame in hexadecimal
whose 16-bit number at "offset" counts up, mending the checksum at "check" (0: none); "request" and
"answer": a DHCP request, and the four bytes with which answers to it begin."""

import contextlib
import json
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time

from probe import counters, flood, inside

CALLERS = 3
PATIENCE_S = 15


class Flood:
    """A process that sends frames until the end of the block."""

    def __init__(self, place, frame, offset, check=0):
        with inside(place):
            self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self.raw.bind(("eth0", 0))
        self.words = bytes.fromhex(frame), offset
        self.check = check
        self.sent = mmap.mmap(-1, 8)

    def __enter__(self):
        self.child = os.fork()
        if self.child == 0:
            (frame, offset), turn = self.words, 0
            while True:
                flood(self.raw, frame, offset, 256, self.check or None, 256 * turn)
                turn += 1
                self.sent[:] = struct.pack("Q", 256 * turn)
        return self

    def __exit__(self, *_):
        os.kill(self.child, signal.SIGKILL)
        os.waitpid(self.child, 0)

    def count(self):
        return struct.unpack("Q", self.sent[:])[0]


class Calls:
    """What an innocent container does meanwhile: connections, one after the other."""

    def __init__(self, place, target):
        self.place, self.target = place, tuple(target)
        self.made = self.failed = 0
        self.slowest = 0.0
        self.lock = threading.Lock()

    def one(self):
        begun = time.monotonic()
        family = socket.AF_INET6 if ":" in self.target[0] else socket.AF_INET
        with inside(self.place):
            client = socket.socket(family, socket.SOCK_STREAM)
        with client:
            client.settimeout(PATIENCE_S)
            # Ends with a reset: nothing of it is left waiting.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            try:
                client.connect(self.target)
                # An echo, so that the other end keeps up.
                client.sendall(b"x")
                failed = client.recv(1) != b"x"
            except OSError:
                failed = True
        with self.lock:
            self.made += 1 - failed
            self.failed += failed
            self.slowest = max(self.slowest, time.monotonic() - begun)

    def until(self, end):
        def call():
            while time.monotonic() < end:
                self.one()

        callers = [threading.Thread(target=call) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        return callers


class Leases:
    """DHCP requests of the innocent container, and which were answered."""

    def __init__(self, place, request, answer):
        with inside(place):
            self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self.raw.bind(("eth0", 3))
        self.request, self.answer = bytes.fromhex(request), bytes.fromhex(answer)
        self.number, self.open, self.answered = 0x4C58E000, set(), 0

    def ask(self):
        at = 14 + 20 + 8 + 4
        self.number += 1
        self.open.add(self.number)
        request = bytearray(self.request)
        request[at:at + 4] = struct.pack("!I", self.number)
        request[40:42] = b"\0\0"  # no checksum
        self.raw.send(request)

    def look(self, patience):
        end = time.monotonic() + patience
        with contextlib.suppress(OSError):
            while (left := end - time.monotonic()) > 0:
                self.raw.settimeout(left)
                frame = self.raw.recv(2048)
                if frame[42:46] == self.answer:
                    number = struct.unpack("!I", frame[46:50])[0]
                    if number in self.open:
                        self.open.remove(number)
                        self.answered += 1


def figures(plan, about):
    """One phase: with this flood, or with none."""
    calls, leases = Calls(plan["innocent"], plan["target"]), Leases(plan["innocent"], plan["request"], plan["answer"])
    before, asked = counters(), 4
    with Flood(plan["from"], **about) if about else contextlib.nullcontext() as flooding:
        begun = time.monotonic()
        callers = calls.until(begun + plan["seconds"])
        for turn in range(asked):
            leases.ask()
            leases.look(max(0.01, begun + plan["seconds"] * (turn + 1) / asked - time.monotonic()))
        for caller in callers:
            caller.join()
        took = time.monotonic() - begun
        deadline = begun + PATIENCE_S
        while leases.open and time.monotonic() < deadline:
            leases.look(0.2)
        sent = flooding.count() if flooding else 0
    after = counters()
    return {
        "sent_per_s": round(sent / took), "connections_per_s": round(calls.made / took), "failed": calls.failed,
        "slowest_ms": round(1000 * calls.slowest), "leases": leases.answered, "asked": asked,
        "rose": {name: after[name] - before[name] for name in after if after[name] > before[name]},
    }


def main():
    with open(sys.argv[1]) as file:
        plan = json.load(file)
    phases = {"none": None, **plan["floods"], "none again": None}
    print(json.dumps({name: figures(plan, about) for name, about in phases.items()}))


if __name__ == "__main__":
    main()
