#!/usr/bin/env python3
"""Random policies, and packets against them: what the kernel lets pass, what `lxmesh trace` says and
what a plain reading of the policies says must be the same.

  unshare -n python3 policies.py [--nics N] [--rounds N] [--packets N] [--seed N] [--lxmesh PROGRAM]

Stands alone (with frames.py beside it). In network namespaces of its own it runs the real agent
against an LXD that exists only here, and gives each NIC new policies in each round: services,
access lists that allow and drop, tags. The packets are raw frames, each with a number of its own,
from one NIC to another; they arrive, or do not. Prints what was compared, as JSON."""

import argparse
import base64
import contextlib
import hashlib
import ipaddress
import json
import os
import random
import select
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time

import frames as f

PATIENCE_S = 60
TRANSPORTS = {"tcp": f.TCP, "udp": f.UDP, "sctp": f.SCTP}
QUERIES = {"icmp": (8, 13, 17), "icmpv6": (128, 139)}
TAGS = {"web": 0, "bastion": 3, "far": 15}
FIRST_PORT, LAST_PORT = 5000, 5012

HOST_FILE = """\
version = 1
[fabric]
name = "policies"
asn = 64500
reflectors = ["203.0.113.100"]
supervisors = ["203.0.113.0/24"]
unprotected_tags = true
[lxd]
socket = "{at}/lxd.sock"
[agent]
control_socket = "{at}/control.sock"
reload_interval_s = 3600
[dhcp]
enabled = false
directory = "{at}/dnsmasq"
[tags]
{tags}
[[network]]
name = "vpc"
vni = 100
gateway = ["192.0.2.1/24", "2001:db8::1/64"]
"""


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


class Nic:
    def __init__(self, number):
        self.number, self.name = number, f"n{number}"
        self.port, self.peer = f"veth{number:x}", f"peer{number:x}"
        self.mac = f"00:16:3e:00:{number >> 8:02x}:{number & 255:02x}"
        self.ipv4 = ipaddress.ip_address(f"192.0.2.{number + 10}")
        self.ipv6 = ipaddress.ip_address(f"2001:db8::{number + 10:x}")
        self.tags, self.entries = [], {True: [], False: []}

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

    def instance(self):
        """As LXD shows it."""
        words = {way: " ".join(e.word() for e in self.entries[way == "in"] if not e.in_list) or "," for way in ("in", "out")}
        device = {
            "type": "nic", "nictype": "p2p", "name": "eth0", "user.lxmesh.parent": "vpc",
            "user.lxmesh.ipv4.address": str(self.ipv4), "user.lxmesh.ipv6.address": str(self.ipv6),
            "user.lxmesh.in_services": words["in"], "user.lxmesh.out_services": words["out"],
            "user.lxmesh.tags": " ".join(self.tags) or ",",
        }
        if self.listed:
            device["user.lxmesh.acls"] = self.name
        config = {"volatile.eth0.host_name": self.port, "volatile.eth0.hwaddr": self.mac}
        return {
            "architecture": "x86_64", "config": config, "expanded_config": config, "devices": {"eth0": device},
            "expanded_devices": {"eth0": device}, "name": self.name, "project": "default", "type": "container",
            "status": "Running", "status_code": 103, "last_used_at": "2026-01-01T00:00:00Z", "profiles": [],
            "created_at": "2026-01-01T00:00:00Z", "location": "none", "description": "", "ephemeral": False, "stateful": False,
        }

    def acl(self):
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


def number_of(frame):
    """The number of a packet that arrived; None if it is none of ours."""
    four = frame[12:14] == b"\x08\x00"
    protocol, at = (frame[23], 34) if four else (frame[20], 54)
    at += 4 if protocol in (f.ICMP, f.ICMP6) else 0
    return int.from_bytes(frame[at:at + 2], "big") if frame[12:14] in (b"\x08\x00", b"\x86\xdd") else None


# -- an LXD that exists only here ---------------------------------------------------------------


class Lxd(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    answers = {}
    listeners = ()

    def show(self, nics):
        """These instances and lists; tells of it."""
        self.answers = {
            "/1.0": {"auth": "trusted", "environment": {"server": "lxd", "server_version": "5.0.2", "kernel": "Linux"}},
            "/1.0/instances": [nic.instance() for nic in nics],
            "/1.0/network-acls": [nic.acl() for nic in nics if nic.listed],
        }
        event = {
            "type": "lifecycle", "timestamp": "2026-01-01T00:00:00Z", "location": "none", "project": "default",
            "metadata": {"action": "network-acl-updated", "source": "/1.0/network-acls/all", "name": "all", "project": "default"},
        }
        text = json.dumps(event).encode()
        for listener in self.listeners:
            with contextlib.suppress(OSError):
                listener.sendall(b"\x81\x7e" + struct.pack("!H", len(text)) + text)


class LxdConnection(socketserver.StreamRequestHandler):
    def handle(self):
        while line := self.rfile.readline().decode():
            path, key = line.split()[1], None
            while (header := self.rfile.readline().decode().strip()):
                if header.lower().startswith("sec-websocket-key:"):
                    key = header.partition(":")[2].strip()
            if key:
                accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
                self.request.sendall(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
                self.server.listeners += (self.request,)
                self.rfile.read()
                return
            found = self.server.answers.get(path.partition("?")[0])
            status = 404 if found is None else 200
            body = {"type": "error" if found is None else "sync", "status_code": status, "error_code": 404 if found is None else 0, "error": "", "metadata": found}
            body = json.dumps(body).encode()
            self.request.sendall(f"HTTP/1.1 {status} Maybe\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


# -- the host, and the agent on it ---------------------------------------------------------------


class Host:
    """A namespace with the bridge and the agent; this process is where the other ends of the NICs are."""

    def __init__(self, nics, program):
        self.nics, self.program = nics, program
        self.directory = tempfile.TemporaryDirectory()
        at = self.directory.name
        tags = "\n".join(f"{name} = {bit}" for name, bit in TAGS.items())
        with open(f"{at}/host.toml", "w") as file:
            file.write(HOST_FILE.format(at=at, tags=tags))
        self.lxd = Lxd(f"{at}/lxd.sock", LxdConnection)
        threading.Thread(target=self.lxd.serve_forever, daemon=True).start()
        with open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w") as file:
            file.write("1")
        self.inside = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 36000"], stdout=subprocess.PIPE)
        self.inside.stdout.readline()
        self.agent = None
        self._devices()

    def _devices(self):
        mine = os.getpid()
        lines = [
            "link set lo up", "address add 203.0.113.1/32 dev lo",
            "link add svi-vpc address 02:00:00:00:00:64 type bridge forward_delay 0",
            "link add vxlan-vpc type vxlan id 100 dstport 4789 local 203.0.113.1 nolearning gbp",
            "link set vxlan-vpc master svi-vpc up", "link set svi-vpc up",
            "address add 192.0.2.1/24 dev svi-vpc", "address add 2001:db8::1/64 dev svi-vpc nodad",
        ]
        lines += [f"link add {nic.port} type veth peer name {nic.peer} address {nic.mac} netns {mine}" for nic in self.nics]
        self.run("ip", "-batch", "-", input="\n".join(lines))
        up = "\n".join(f"link set {nic.peer} up" for nic in self.nics)
        subprocess.run(["ip", "-batch", "-"], input=up, text=True, check=True)

    def command(self, *words):
        return ["nsenter", "-t", str(self.inside.pid), "-n", *words]

    def run(self, *words, check=True, **more):
        result = subprocess.run(self.command(*words), capture_output=True, text=True, **more)
        if check and result.returncode:
            sys.exit(f"policies.py: {' '.join(words)}: {result.stderr[-3000:]}")
        return result

    def lxmesh(self, *words, **more):
        return self.run(self.program, *words, "--host-file", f"{self.directory.name}/host.toml", check=False, **more)

    def show(self):
        """Has the agent take over what the NICs' policies are now."""
        self.lxd.show(self.nics)
        if not self.agent:
            log = open(f"{self.directory.name}/log", "w")
            self.agent = subprocess.Popen(
                self.command(self.program, "agent", "--host-file", f"{self.directory.name}/host.toml"), stderr=log)
        self._until("all ports forward", self._ports_that_do_not_forward)
        self._until("the agent has nothing to do", self._plan)

    def _ports_that_do_not_forward(self):
        """What is lost because a port is not up yet would count as denied."""
        forwarding = self.run("bridge", "link", "show").stdout.count("state forwarding")
        return forwarding < len(self.nics) + 1 and f"{forwarding} ports forward"

    def _plan(self):
        plan = self.lxmesh("plan")
        return plan.stdout != "nothing to do\n" and plan.stdout + plan.stderr

    def _until(self, what, complaint):
        deadline = time.monotonic() + PATIENCE_S
        while text := complaint():
            if time.monotonic() > deadline or self.agent.poll() is not None:
                with open(f"{self.directory.name}/log") as log:
                    sys.exit(f"policies.py: not so: {what}: {text[-2000:]}\n{log.read()[-3000:]}")
            time.sleep(0.1)

    def traced(self, packets):
        said = self.lxmesh("trace", "--json", "--from", "-", input="\n".join(p.question() for p in packets))
        answers = [json.loads(line) for line in said.stdout.splitlines()]
        if len(answers) != len(packets):
            sys.exit(f"policies.py: {len(answers)} answers to {len(packets)} questions: {said.stderr[-2000:]}")
        return answers

    def end(self):
        for process in (self.agent, self.inside):
            if process:
                process.kill()
                process.wait()


class Wires:
    """All other ends of the NICs: frames are sent by one, and seen where they arrive."""

    def __init__(self):
        self.sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.receiver.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING
        self.receiver.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self.receiver.setblocking(False)
        self.arrived = {}

    def look(self, patience=0):
        """Notes what has arrived until nothing has for a while."""
        while select.select([self.receiver], [], [], patience)[0]:
            frame, (interface, *_) = self.receiver.recvfrom(2048)
            if (number := number_of(frame)) is not None:
                self.arrived[number] = interface

    def send(self, packets):
        for count, packet in enumerate(packets):
            self.sender.sendto(packet.frame(), (packet.from_nic.peer, 0))
            if count % 64 == 0:
                self.look()
        self.look(0.5)


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
    for packet, answer in zip(packets, host.traced(packets)):
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

    host = timed("devices", Host, nics, chosen.lxmesh)
    try:
        wires, number = Wires(), 10000
        for _ in range(chosen.rounds):
            for nic in nics:
                nic.dress(dice, nics)
            timed("agent", host.show)
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
