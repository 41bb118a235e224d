#!/usr/bin/env python3
"""Random policies, and packets against them: what the kernel lets pass, what `lxmesh trace` says and
what a plain reading of the policies says must be the same.

  unshare -n -m python3 policies.py [--nics N] [--rounds N] [--packets N] [--seed N] [--lxmesh PROGRAM]

Stands alone (with alone.py and frames.py beside it). In network namespaces of its own it runs the real agent
against an LXD that exists only here, and gives each NIC new policies in each round: services,
access lists that allow and drop, tags. The packets are raw frames, each with a number of its own,
from one NIC to another; they arrive, or do not. Prints what was compared, as JSON."""

import argparse
import ipaddress
import json
import random
import struct
import sys
import time

import alone
import frames as f

TRANSPORTS = {"tcp": f.TCP, "udp": f.UDP, "sctp": f.SCTP}
QUERIES = {"icmp": (8, 13, 17), "icmpv6": (128, 139)}
TAGS = {"web": 0, "bastion": 3, "far": 15}
FIRST_PORT, LAST_PORT = 5000, 5012


# -- policies, and what they mean to this test --------------------------------------------------


class Entry:
    """One service, or one rule of an access list."""

    def __init__(self, dice, inward, nics, in_list):
        self.in_list, self.drop = in_list, in_list and dice.random() < 0.5
        # LXD's lists know no SCTP.
        self.what = dice.choice(["any", "icmp", "icmpv6"] + 3 * ["tcp", "udp"] + ([] if in_list else 2 * ["sctp"]))
        self.first = self.last = dice.randrange(FIRST_PORT + 1, LAST_PORT)
        if self.what in QUERIES:
            self.first = self.last = dice.choice(QUERIES[self.what])
        elif dice.random() < 0.4:
            self.last = min(self.first + dice.randrange(1, 5), LAST_PORT - 1)
        families = {"icmp": ["four"], "icmpv6": ["six"]}.get(self.what, ["four", "six"])
        whos = ["all", *families, *families]
        if not in_list:
            whos.append("network")
            if inward and self.what not in QUERIES:
                whos += ["tag", "tag"]
        self.who = dice.choice(whos)
        near = dice.choice(nics)
        if self.who in ("four", "six"):
            length = dice.choice([24, 26, 28, 30, 31, 32] if self.who == "four" else [64, 120, 124, 126, 127, 128])
            address = near.ipv4 if self.who == "four" else near.ipv6
            self.net = ipaddress.ip_network(f"{address}/{length}", strict=False)
        self.tag = dice.choice(list(TAGS))

    def word(self):
        """As a service."""
        what = self.what if self.what == "any" else f"{self.what}/{self.first}"
        if self.first != self.last and self.what != "any":
            what += f"-{self.last}"
        return what + {"all": "", "network": "@network", "tag": f"@tag:{self.tag}"}.get(self.who, f"@{getattr(self, 'net', '')}")

    def rule(self, inward):
        """As a rule of an access list."""
        rule = {"action": "drop" if self.drop else "allow", "state": "enabled"}
        if self.what in TRANSPORTS:
            rule |= {"protocol": self.what, "destination_port": str(self.first) if self.first == self.last else f"{self.first}-{self.last}"}
        elif self.what != "any":
            rule |= {"protocol": {"icmp": "icmp4", "icmpv6": "icmp6"}[self.what], "icmp_type": str(self.first)}
        if self.who != "all":
            rule["source" if inward else "destination"] = str(self.net)
        return rule

    def __str__(self):
        return ("drop " if self.drop else "list " if self.in_list else "") + self.word()

    def meets(self, inward, packet):
        """A plain reading."""
        peer = packet.source if inward else packet.target
        if self.who in ("four", "six") and peer not in self.net:
            return False
        if self.who == "tag" and self.tag not in packet.from_nic.tags:
            return False
        # What is wide does not open the ports of DHCP's clients.
        client = inward and packet.protocol == "udp" and packet.port in (68, 546) and not self.drop
        if self.what == "any":
            # A rule of a list that names no protocol is about all that there is to name; a service is about ports.
            return (self.in_list or packet.protocol in TRANSPORTS) and not client
        if self.first != self.last and client:
            return False
        return self.what == packet.protocol and self.first <= packet.port <= self.last


def allows(entries, inward, packet):
    meeting = [entry for entry in entries if entry.meets(inward, packet)]
    if any(entry.drop for entry in meeting):
        return False
    return bool(meeting) or (packet.protocol, packet.port) in (("icmp", 8), ("icmpv6", 128))


class Nic(alone.Nic):
    def __init__(self, number):
        super().__init__(number)
        self.listed, self.entries = False, {True: [], False: []}

    def dress(self, dice, nics):
        """A new policy, in and out. A side that allows much leaves it to the other to decide."""
        self.tags = dice.sample(list(TAGS), dice.choice([0, 0, 1, 1, 2]))
        self.listed = dice.random() < 0.4
        for inward in (True, False):
            entries = [Entry(dice, inward, nics, False) for _ in range(dice.randrange(0, 7))]
            if self.listed:
                entries += [Entry(dice, inward, nics, True) for _ in range(dice.randrange(1, 5))]
            if dice.random() < 0.4:
                wide = Entry(dice, inward, nics, False)
                wide.what, wide.who = "any", "all"
                entries.append(wide)
            self.entries[inward] = entries

    def keys(self):
        words = {way: " ".join(e.word() for e in self.entries[way == "in"] if not e.in_list) or "," for way in ("in", "out")}
        keys = {"in_services": words["in"], "out_services": words["out"], "tags": " ".join(self.tags) or ","}
        return keys | ({"acls": self.name} if self.listed else {})

    def acl(self):
        if not self.listed:
            return None
        rules = {way: [e.rule(way == "ingress") for e in self.entries[way == "ingress"] if e.in_list] for way in ("ingress", "egress")}
        return {"name": self.name, "description": "", "config": {}, "used_by": [], **rules}

    def about(self):
        sides = {"in": self.entries[True], "out": self.entries[False]}
        return f"{self.name} tags {self.tags} " + "; ".join(f"{way}: {', '.join(map(str, e))}" for way, e in sides.items())


class Packet:
    """One packet from one NIC to another, of a flow of its own: `number` is its source port or ICMP identifier."""

    def __init__(self, dice, number, nics):
        self.number = number
        self.from_nic, self.to_nic = dice.sample(nics, 2)
        # Mostly something that one of the policies is about, or is next to.
        entries = [e for e in self.from_nic.entries[False] + self.to_nic.entries[True] if e.what != "any"]
        entry = dice.choice(entries) if entries and dice.random() < 0.8 else None
        if entry and entry.what in TRANSPORTS:
            self.protocol, self.port = entry.what, dice.randrange(entry.first - 1, entry.last + 2)
        elif entry:
            self.protocol, self.port = entry.what, entry.first
        else:
            self.protocol = dice.choice([*TRANSPORTS, *QUERIES])
            self.port = dice.choice(QUERIES.get(self.protocol) or (FIRST_PORT, 5005, 5008, 68, 546))
        six = self.protocol == "icmpv6" or self.protocol != "icmp" and dice.random() < 0.5
        self.source, self.target = ((nic.ipv6 if six else nic.ipv4) for nic in (self.from_nic, self.to_nic))

    def wanted(self):
        return allows(self.from_nic.entries[False], False, self) and allows(self.to_nic.entries[True], True, self)

    def frame(self):
        source, target = str(self.source), str(self.target)
        if self.protocol == "tcp":
            body = f.tcp(source, target, self.number, self.port)
        elif self.protocol == "udp":
            body = f.udp(source, target, self.number, self.port, b"policies")
        elif self.protocol == "sctp":
            body = f.sctp_init(self.number, self.port)
        elif self.protocol == "icmp":
            # An address mask request has 4 bytes more, a timestamp request 12.
            body = f.icmp(self.port, 0, struct.pack("!HH", self.number, 1) + bytes(12))
        else:
            body = f.icmp6(source, target, self.port, struct.pack("!HH", self.number, 1) + bytes(12))
        protocol = TRANSPORTS.get(self.protocol) or {"icmp": f.ICMP, "icmpv6": f.ICMP6}[self.protocol]
        kind, packet = f.ip(source, target, protocol, body)
        return f.ethernet(self.to_nic.mac, self.from_nic.mac, kind, packet)

    def question(self):
        return f"{self.source} {self.target} {self.protocol}/{self.port}"

    def __str__(self):
        return f"{self.question()} from {self.from_nic.name} to {self.to_nic.name}"


def verdicts(wires, packets):
    """Which packets arrived. What should have and did not is sent again: under load a queue may be full."""
    wires.arrived.clear()
    wires.send(packets)
    for _ in range(3):
        missing = [p for p in packets if p.wanted() and p.number not in wires.arrived]
        if not missing:
            break
        wires.send(missing)
    return wires.arrived


def compare(host, packets, arrived, seed):
    """What the three do not agree about, as texts."""
    for packet, answer in zip(packets, host.traced([packet.question() for packet in packets])):
        wanted, passed = packet.wanted(), packet.number in arrived
        says = answer["traces"][0]["allowed"] if "traces" in answer else answer["error"]
        if not wanted == passed == says:
            yield (f"seed {seed}: {packet}: evaluator {wanted}, kernel {passed}, trace {answer}\n"
                   f"  {packet.from_nic.about()}\n  {packet.to_nic.about()}")
        if passed and arrived[packet.number] != packet.to_nic.peer:
            yield f"seed {seed}: {packet} arrived at {arrived[packet.number]}"


def main():
    arguments = argparse.ArgumentParser()
    for name, usual in (("nics", 125), ("rounds", 4), ("packets", 1000), ("seed", random.randrange(1 << 32))):
        arguments.add_argument(f"--{name}", type=int, default=usual)
    arguments.add_argument("--lxmesh", default="lxmesh")
    chosen = arguments.parse_args()
    dice = random.Random(chosen.seed)
    nics = [Nic(number) for number in range(chosen.nics)]
    told = {"seed": chosen.seed, "policies": 0, "packets": 0, "allowed": 0, "differences": [], "seconds": {}}
    spent = told["seconds"]

    def timed(what, action, *words):
        begun = time.monotonic()
        result = action(*words)
        spent[what] = round(spent.get(what, 0) + time.monotonic() - begun, 1)
        return result

    host = timed("devices", alone.Host, nics, chosen.lxmesh, TAGS)
    try:
        wires, number = alone.Wires(), 10000
        for _ in range(chosen.rounds):
            for nic in nics:
                nic.dress(dice, nics)
            timed("agent", host.take_over, nics)
            # Flows of their own, as long as there are numbers.
            packets = []
            for _ in range(chosen.packets):
                number = number + 1 if number < 65000 else 10000
                packets.append(Packet(dice, number, nics))
            arrived = timed("kernel", verdicts, wires, packets)
            told["differences"] += timed("trace", lambda: list(compare(host, packets, arrived, chosen.seed)))
            told["policies"] += 2 * len(nics)
            told["packets"] += len(packets)
            told["allowed"] += sum(packet.wanted() for packet in packets)
    finally:
        host.end()
    told["count"], told["differences"] = len(told["differences"]), told["differences"][:10]
    print(json.dumps(told, indent=1))
    sys.exit(2 if told["count"] else 0)


if __name__ == "__main__":
    main()
