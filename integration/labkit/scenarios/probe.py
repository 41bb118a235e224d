#!/usr/bin/env python3
"""Runs on a supervisor of the lab and works through a plan of frames: sends them from inside a
container, watches where they arrive, sends what must pass along with each, and reads the rules'
counters between. Stands alone; only Python's standard library.

  probe.py run PLAN     works through the plan; prints what happened, as JSON
  probe.py watch PLAN   only watches, and echoes UDP, until stopped; prints what arrived

A plan (JSON): "prefix" and three digits mark an attempt's frames; "eyes": {name: [place,
interface, "in" or "out"]}; "attempts": see attacks.py; "from": the place that sends. A place is
a container's name, "" for the host, "/NAME" for a network namespace of `ip netns`."""

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

PATIENCE_S = 10
HOME = os.open("/proc/self/ns/net", os.O_RDONLY)


@contextlib.contextmanager
def inside(place):
    """This thread is in the place's network for the block."""
    if not place:
        yield
        return
    target = _namespace(place)
    try:
        os.setns(target, os.CLONE_NEWNET)
        yield
    finally:
        os.setns(HOME, os.CLONE_NEWNET)
        os.close(target)


def _namespace(place):
    if place.startswith("/"):
        return os.open(f"/run/netns{place}", os.O_RDONLY)
    for end in ("cgroup.procs", "init.scope/cgroup.procs"):
        with contextlib.suppress(OSError), open(f"/sys/fs/cgroup/lxc.payload.{place}/{end}") as processes:
            if pid := processes.readline().strip():
                return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    sys.exit(f"probe.py: container {place} is not running")


class Eye:
    """Sees the frames that come in at, or leave by, an interface."""

    def __init__(self, name, place, interface, direction):
        self.name = name
        self.outward = direction == "out"
        with inside(place):
            self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self.raw.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
            self.raw.bind((interface, 3))
        self.raw.setblocking(False)

    def frames(self):
        while True:
            try:
                frame, address = self.raw.recvfrom(4096)
            except BlockingIOError:
                return
            if (address[2] == socket.PACKET_OUTGOING) == self.outward:
                yield frame


class Sight:
    """What all eyes have seen, by attempt."""

    def __init__(self, plan, eyes):
        self.prefix = plan["prefix"].encode()
        self.eyes = eyes
        self.known = {}
        self.forbidden = []
        for number, attempt in enumerate(plan["attempts"]):
            for frame in map(bytes.fromhex, attempt["frames"]):
                # what may arrive has its mark in small letters
                if self.prefix.lower() not in frame:
                    self.known[frame[14:]] = number
            for needle in attempt.get("forbidden", []):
                self.forbidden.append((needle["at"], bytes.fromhex(needle["needle"]), number))
        self.arrived = {}  # attempt: {place: frames}
        self.samples = {}  # attempt: the first frame with forbidden bytes, in hexadecimal
        self.wanted = {}  # what is waited for: (place, needle): seen

    def look(self, patience):
        ready = select.select([eye.raw for eye in self.eyes], [], [], patience)[0]
        for eye in self.eyes:
            if eye.raw in ready:
                for frame in eye.frames():
                    self._see(eye.name, frame)

    def _see(self, place, frame):
        for waiting in self.wanted:
            if waiting[0] == place and waiting[1] in frame:
                self.wanted[waiting] = True
        if place == "eve":
            number = None  # answers quote what she sent
        elif (number := self.known.get(frame[14:])) is None and (at := frame.find(self.prefix)) >= 0:
            digits = frame[at + len(self.prefix):][:3]
            number = int(digits) if digits.isdigit() else None
        if number is not None:
            self.note(number, place)
        for where, needle, number in self.forbidden:
            if where == place and needle in frame:
                self.note(number, place)
                self.samples.setdefault(number, frame.hex())

    def note(self, number, place):
        of = self.arrived.setdefault(number, {})
        of[place] = of.get(place, 0) + 1


def counters():
    text = subprocess.run(["nft", "-j", "list", "counters"], capture_output=True, check=True, text=True).stdout
    found = (thing.get("counter") for thing in json.loads(text)["nftables"])
    return {one["name"]: one["packets"] for one in found if one and one["table"] == "lxmesh"}


def deferring(interface):
    """A socket whose frames go behind a struct virtio_net_hdr."""
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
    raw.bind((interface, 0))
    return raw


def defer(raw, start, offset, frame):
    """Sends the frame, and leaves it to the kernel to sum from `start` on and write that `offset` behind."""
    raw.send(struct.pack("=BBHHHH", 1, 0, 0, 0, start, offset) + bytes.fromhex(frame))


def measure(commands):
    return {
        name: int(subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout.strip() or 0)
        for name, command in commands.items()
    }


# -- sending and what must pass ----------------------------------------------------------------


def flood(raw, frame, offset, count, check=None, start=0):
    """The frame `count` times, with the 16-bit number at `offset` counting up, from `start` more than it is."""
    frame = bytearray(frame)
    first = int.from_bytes(frame[offset:offset + 2], "big")
    summed = int.from_bytes(frame[check:check + 2], "big") if check else 0
    for step in range(start, start + count):
        number = (first + step) & 0xFFFF
        frame[offset:offset + 2] = number.to_bytes(2, "big")
        if check:
            total = (~summed & 0xFFFF) + (~first & 0xFFFF) + number
            total = (total & 0xFFFF) + (total >> 16)
            total = (total & 0xFFFF) + (total >> 16)
            frame[check:check + 2] = (~total & 0xFFFF).to_bytes(2, "big")
        with contextlib.suppress(OSError):  # the queue of the device is full
            raw.send(frame)


def seen(raw, sight, twins):
    """Sends the twins' frames until each has been seen where it must be; returns those that were not."""
    sight.wanted = {(twin["at"], bytes.fromhex(twin["needle"])): False for twin in twins}
    deadline = time.monotonic() + PATIENCE_S
    again = 0.0
    while not all(sight.wanted.values()) and time.monotonic() < deadline:
        if time.monotonic() >= again:
            again = time.monotonic() + 1
            for twin in twins:
                if not sight.wanted[twin["at"], bytes.fromhex(twin["needle"])]:
                    for frame in twin["frames"]:
                        raw.send(bytes.fromhex(frame))
        sight.look(0.05)
    missing = [twin["name"] for twin in twins if not sight.wanted[twin["at"], bytes.fromhex(twin["needle"])]]
    sight.wanted = {}
    return missing


def talks(place, protocol, address, port, size):
    """True if an echo of `size` bytes comes back; of tcp, if it connects; of segments, if a thousand bytes each do.
    The address may be "TARGET from SOURCE"."""
    address, _, source = address.partition(" from ")
    if protocol == "ping":
        words = ["ping", "-n", "-q", "-c", "1", "-W", "2", "-s", str(size), *(["-I", source] if source else []), address]
        with inside(place):
            return subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(place):
        client = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    with client:
        client.settimeout(2)
        if protocol == "segments":
            client.setsockopt(socket.SOL_UDP, 103, 1000)  # UDP_SEGMENT
        try:
            if source:
                client.bind((source, 0))
            client.connect((address, port))
            if protocol == "tcp":
                return True
            client.send(b"x" * size)
            if protocol == "segments":
                return all(len(client.recv(65535)) == 1000 for _ in range(size // 1000))
            return len(client.recv(65535)) == size
        except ConnectionRefusedError:
            return "refused"
        except OSError:
            return False


def spoken(talk):
    """None if the talk goes as wanted ("yes", "no", "refused"), else what is wrong."""
    name, *how, wanted = talk
    answer = {"yes": True, "no": False}.get(wanted, wanted)
    for _ in range(1 if wanted == "no" else 3):
        got = talks(*how)
        if got == answer:
            return None
    return f"{name}: {got}, wanted {wanted}"


class Flow:
    """A UDP conversation that goes on all the time."""

    def __init__(self, place, port, address, far_port):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with inside(place):
            self.socket = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.name = f"flow from {place} to {address}"
        self.socket.bind(("", port))
        self.socket.connect((address, far_port))
        self.socket.settimeout(2)

    def goes_on(self):
        for _ in range(3):
            with contextlib.suppress(OSError):
                self.socket.send(b"still there?")
                self.socket.recv(100)
                return True
        return False


# -- the two commands --------------------------------------------------------------------------


def run(plan):
    sight = Sight(plan, [Eye(name, *where) for name, where in plan["eyes"].items()])
    with inside(plan["from"]):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        raw.bind(("eth0", 0))
        vnet = deferring("eth0")
    flows = [Flow(*flow) for flow in plan.get("flows", [])]
    listener = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", plan["host_port"]))
    listener.setblocking(False)
    results = []
    before = counters()
    for attempt in plan["attempts"]:
        begun = time.monotonic()
        measured = measure(attempt.get("measure", {}))
        lost = [flow.name for flow in flows if not flow.goes_on()]
        for _ in range(plan["times"]):
            for frame in attempt["frames"]:
                raw.send(bytes.fromhex(frame))
            for one in attempt.get("deferred", []):
                defer(vnet, *one)
        for one in attempt.get("floods", []):
            flood(raw, bytes.fromhex(one["frame"]), one["offset"], one["count"], one.get("check"))
        lost += seen(raw, sight, attempt["twins"])
        lost += filter(None, map(spoken, attempt.get("talks", [])))
        after = counters()
        results.append({
            "rose": {name: after[name] - before.get(name, 0) for name in after if after[name] > before.get(name, 0)},
            "lost": lost, "took": round(time.monotonic() - begun, 2),
            "measured": {name: number - measured[name] for name, number in measure(attempt.get("measure", {})).items()},
        })
        before = after
    sight.look(0.3)
    with contextlib.suppress(BlockingIOError):
        while True:
            data = listener.recv(4096)
            at = data.find(sight.prefix)
            digits = data[at + len(sight.prefix):][:3]
            sight.note(int(digits) if at >= 0 and digits.isdigit() else 0, "host socket")
    for number, result in enumerate(results):
        result["arrived"] = sight.arrived.get(number, {})
        result["sample"] = sight.samples.get(number, "")
    print(json.dumps(results))


def echo(server):
    while True:
        with contextlib.suppress(OSError):
            data, peer = server.recvfrom(65535)
            server.sendto(data, peer)


def echoing(place, port):
    with inside(place):
        server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", port))
    threading.Thread(target=echo, args=(server,), daemon=True).start()


def watch(plan):
    stop = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.append(True))
    sight = Sight(plan, [Eye(name, *where) for name, where in plan["far_eyes"].items()])
    echoing(plan["far"], plan["echo_port"])
    print("ready", flush=True)
    while not stop:
        with contextlib.suppress(InterruptedError):
            sight.look(0.2)
    sight.look(0.1)
    print(json.dumps(sight.arrived), flush=True)


def main():
    with open(sys.argv[2]) as file:
        plan = json.load(file)
    if sys.argv[1] == "run":
        for place in plan.get("echoing", []):
            echoing(place, plan["echo_port"])
        run(plan)
    else:
        watch(plan)


if __name__ == "__main__":
    main()
