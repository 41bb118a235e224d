#!/usr/bin/env python3
"""The agent killed before each single thing that it writes, while it attaches a NIC, changes one, takes
one away, or replaces the filters; and packets in what it leaves. What neither the old nor the new
state allows must not arrive, at other NICs or at the host; what both allow must.

  unshare -n -m python3 killed.py --lxmesh PROGRAM [--firewall FILE]

PROGRAM is built with the feature test-hooks. Stands alone, with alone.py and frames.py beside it, on a
kernel that has the whole ruleset. Prints what was sent, as JSON."""

import argparse
import copy
import itertools
import json
import os
import select
import struct
import subprocess
import sys
import time

import alone
import frames as f

GATEWAY, GATEWAY_MAC = ("192.0.2.1", "2001:db8::1"), "02:00:00:00:00:64"
LLDP = "01:80:c2:00:00:0e"  # goes past the bridge's rules
NOBODYS = 5005  # a port in no policy

# Says the source port of each datagram that reaches the host itself.
LISTEN = f"""\
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("::", {NOBODYS}))
while True:
    print(s.recvfrom(100)[1][1], flush=True)
"""


class Nic(alone.Nic):
    def __init__(self, number, inward, outward, tags=()):
        super().__init__(number)
        self.inward, self.outward, self.tags = inward, outward, list(tags)

    def keys(self):
        return {"in_services": self.inward, "out_services": self.outward, "tags": " ".join(self.tags) or ","}

    def addresses(self):
        return str(self.ipv4), str(self.ipv6)


class Packet:
    """A frame of a flow of its own from one NIC to another, or to the host."""

    numbers = itertools.count(10000)

    def __init__(self, from_nic, to_nic, about, source, target, port=None, mac=None, to_mac=None):
        """To a UDP port, or an echo request. By `mac`, if it is not the NIC's own."""
        self.number = 10000 + next(self.numbers) % 50000
        self.from_nic, self.to_nic = from_nic, to_nic
        self.about = f"{about}: {source} to {target}"
        to_mac = to_mac or (to_nic.mac if to_nic else GATEWAY_MAC)
        if port is not None:
            protocol, body = f.UDP, f.udp(source, target, self.number, port, b"killed")
        elif ":" in source:
            protocol, body = f.ICMP6, f.icmp6(source, target, 128, struct.pack("!HH", self.number, 1) + bytes(12))
        else:
            protocol, body = f.ICMP, f.icmp(8, 0, struct.pack("!HH", self.number, 1) + bytes(12))
        kind, packet = f.ip(source, target, protocol, body)
        self.bytes = f.ethernet(to_mac, mac or from_nic.mac, kind, packet)

    def frame(self):
        return self.bytes


def allowed(a, b):
    """What all states allow: the same flows of two NICs that nothing happens to."""
    for source, target in zip(a.addresses(), b.addresses()):
        yield Packet(a, b, "echo", source, target)
        yield Packet(a, b, "a listed service", source, target, port=5001)


def forbidden(nics, versions):
    """What no state allows."""
    for x, y in itertools.permutations(nics, 2):
        other = next(nic for nic in nics if nic not in (x, y))
        for mine, forged, target in zip(x.addresses(), other.addresses(), y.addresses()):
            yield Packet(x, y, "another NIC's address", forged, target)
            yield Packet(x, y, "another NIC's MAC", mine, target, mac=other.mac)
            yield Packet(x, y, "a service that nobody has", mine, target, port=NOBODYS)
    for x in nics:
        for mine, gateway in zip(x.addresses(), GATEWAY):
            yield Packet(x, None, "to the host", mine, gateway, port=NOBODYS)
            yield Packet(x, None, "to the host, past the bridge", mine, gateway, port=NOBODYS, to_mac=LLDP)
    # Half of one state and half of the other: its address of then with its services of now.
    a, b = nics[0], nics[1]
    for one, two in itertools.permutations(versions, 2):
        served, sent = int(two.inward.partition("/")[2]), int(two.outward.partition("/")[2])
        for near, own in zip(a.addresses(), one.addresses()):
            yield Packet(a, one, "an old address, a new service", near, own, port=served)
        for own, near in zip(one.addresses(), b.addresses()):
            yield Packet(one, b, "an old address, a new service of others", own, near, port=sent)


class Trial:
    def __init__(self, program, firewall):
        self.a = Nic(0, "udp/5001", "udp/5001 udp/5002 udp/5003")
        self.b = Nic(1, "udp/5001 udp/6001 udp/6002", "udp/5001")
        self.c = Nic(2, "udp/5002", "udp/6001")
        # The same instance and port.
        self.d = copy.copy(self.c)
        other = alone.Nic(7)
        self.d.ipv4, self.d.ipv6 = other.ipv4, other.ipv6
        self.d.inward, self.d.outward, self.d.tags = "udp/5003", "udp/6002", ["web"]
        self.crash = f"/var/tmp/lxmesh-killed-{os.getpid()}"
        self.host = alone.Host([self.a, self.b, self.c], program, {"web": 0}, {"LXMESH_TEST_CRASH_FILE": self.crash})
        if firewall:
            self.host.run("nft", "-f", firewall)
        self.wires = alone.Wires()
        self.listener = subprocess.Popen(self.host.command("python3", "-c", LISTEN), stdout=subprocess.PIPE)
        self.told = {"states": {}, "sent": 0, "arrived": 0, "wrong": []}

    def run(self):
        old, new = [self.a, self.b], [self.a, self.b, self.c]
        self._listens()
        self._each_step("attaching", old, new)
        self._each_step("changing", new, [self.a, self.b, self.d])
        self._each_step("taking away", new, old)
        self._each_step("replacing the filters", new, new, damage="nft add set bridge lxmesh extra '{ type ifname; }'")

    def _each_step(self, what, before, after, damage=None):
        versions = [self.c, self.d] if what == "changing" else []
        for step in itertools.count(1):
            self.host.take_over(before)
            with open(self.crash, "w") as file:
                file.write(str(step))
            if damage:
                self.host.run("sh", "-c", damage)
            self.host.lxd.show(after)
            died = self._dies()
            os.unlink(self.crash)
            if not died:
                self.told["states"][what] = step - 1
                return
            self._judge(f"{what}, before step {step}", versions)
            self.host.agent = None

    def _dies(self):
        """Whether the agent dies of what it has to do. It is done when twice nothing was left."""
        done, deadline = 0, time.monotonic() + alone.PATIENCE_S
        while self.host.agent.poll() is None:
            done = 0 if self.host.plan() else done + 1
            if done == 2:
                return self.host.agent.poll() is not None
            if time.monotonic() > deadline:
                sys.exit(f"neither dead nor done: {self.host.plan()}")
            time.sleep(0.2)
        return True

    def _judge(self, state, versions):
        right, wrong = list(allowed(self.a, self.b)), list(forbidden([self.a, self.b, self.c], versions))
        self.wires.arrived.clear()
        self.wires.send(wrong + right)
        for _ in range(3):  # under load a queue may be full
            if missing := [packet for packet in right if packet.number not in self.wires.arrived]:
                self.wires.send(missing)
        reached = set(self.wires.arrived) | self._heard()
        self.told["sent"] += len(wrong)
        self.told["arrived"] += len(right)
        self.told["wrong"] += [f"{state}: passed: {packet.about}" for packet in wrong if packet.number in reached]
        self.told["wrong"] += [f"{state}: lost: {packet.about}" for packet in right if packet.number not in reached]

    def _heard(self):
        """Source ports of what reached the host."""
        ports = set()
        while select.select([self.listener.stdout], [], [], 0)[0]:
            line = os.read(self.listener.stdout.fileno(), 65536)
            if not line:
                sys.exit("the listener has ended")
            ports.update(int(word) for word in line.split())
        return ports

    def _listens(self):
        """The host's listener hears what does reach it."""
        say = f'import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b"", ("192.0.2.1", {NOBODYS})); print(s.getsockname()[1])'
        deadline = time.monotonic() + alone.PATIENCE_S
        while int(self.host.run("python3", "-c", say).stdout) not in self._heard():
            if time.monotonic() > deadline:
                sys.exit("the listener hears nothing")
            time.sleep(0.2)

    def end(self):
        self.listener.kill()
        self.host.end()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--lxmesh", required=True)
    arguments.add_argument("--firewall", help="the host's own filter, as lxmesh-gen writes it")
    chosen = arguments.parse_args()
    trial = Trial(chosen.lxmesh, chosen.firewall)
    try:
        trial.run()
    finally:
        trial.end()
    print(json.dumps(trial.told, indent=1))


if __name__ == "__main__":
    main()
