#!/usr/bin/env python3
"""Instances and hosts of the fabric: what one sends to the other arrives only if the host file opens it or if it
answers, by whichever way the destination has become one of these hosts.

  unshare -n -m python3 fabric.py --lxmesh PROGRAM [--family 4|6]

Stands alone, with alone.py and frames.py beside it, on a kernel that has the whole ruleset. Prints what was
seen, as JSON. `near` has all services, `watched` is audited and has none, `red` and `pink` are in a VRF whose
addresses are some of the fabric's."""

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time

import alone
import frames as f

UPLINK_MAC, ROUTER_MAC = "02:aa:00:00:00:01", "02:aa:00:00:00:02"
SVI_MAC = {"vpc": "02:00:00:00:00:64", "red": "02:00:00:00:01:2c", "pink": "02:00:00:00:01:90"}
LISTED, CLOSED, INWARD = 3128, 3129, 80
# By the reading of connection tracking, which knows GRE, and UDP-Lite in kernels that have it (6.18 has, 7.2 has not).
with open("/proc/net/protocols") as protocols:
    MALFORMED = ("protocol 47", "protocol 136")[:2 if "UDP-Lite" in protocols.read() else 1]
OTHERS = {"tcp": f.TCP, "udp": f.UDP, "sctp": f.SCTP}


class Plan:
    """The addresses of one family."""

    def __init__(self, six):
        self.six = six
        self.own, self.other, self.reflector = (
            ("2001:db8:ffff::1", "2001:db8:ffff::2", "2001:db8:ffff::100") if six else ("203.0.113.1", "203.0.113.2", "203.0.113.100"))
        self.prefix = "2001:db8:ffff::/64" if six else "203.0.113.0/24"
        self.gateway = "2001:db8::1" if six else "192.0.2.1"
        # Of networks in the VRF, among the fabric's addresses.
        self.red, self.pink = (("2001:db8:ffff::8001", "2001:db8:ffff::c001") if six else ("203.0.113.129", "203.0.113.193"))
        self.vrf_length = 114 if six else 26
        self.in_red, self.in_pink = ("2001:db8:ffff::8009", "2001:db8:ffff::c009") if six else ("203.0.113.140", "203.0.113.200")
        self.outside, self.translated = ("2001:db8:77::9", "2001:db8:77::80") if six else ("198.51.100.9", "198.51.100.80")
        self.outside_gateway = "2001:db8:77::1/64" if six else "198.51.100.1/24"
        self.family, self.ping = ("ip6", f.ICMP6) if six else ("ip", f.ICMP)
        self.echo = "icmpv6/echo-request" if six else "icmp/echo-request"


class Nic(alone.Nic):
    def __init__(self, number, network="vpc", outward="any", audit="false", only=None):
        super().__init__(number)
        self.network, self.outward, self.audit = network, outward, audit
        if only:
            address = alone.ipaddress.ip_address(only)
            self.ipv4, self.ipv6 = (None, address) if address.version == 6 else (address, None)

    def address(self, plan):
        return str(self.ipv6 if plan.six else self.ipv4)

    def keys(self):
        return {"parent": self.network, "in_services": f"tcp/{INWARD} udp/{INWARD}", "out_services": self.outward, "audit": self.audit}

    def instance(self):
        made = super().instance()
        for key in ("ipv4", "ipv6"):
            if getattr(self, key) is None:
                del made["expanded_devices"]["eth0"][f"user.lxmesh.{key}.address"]
        return made


class Host(alone.Host):
    def __init__(self, plan, nics, program):
        self.addresses = plan
        length = plan.vrf_length
        self.more_text = f"""
[[network]]
name = "red"
vni = 300
vrf = "vrf-red"
gateway = ["{plan.red}/{length}"]
[[network]]
name = "pink"
vni = 400
vrf = "vrf-red"
gateway = ["{plan.pink}/{length}"]
[host]
uplinks = ["uplink"]
"""
        self.more_devices = [
            "link add vrf-red type vrf table 1300", "link set vrf-red up",
            f"link add uplink address {UPLINK_MAC} type veth peer name router address {ROUTER_MAC} netns {os.getpid()}",
            "link set uplink up", f"address add {plan.own}/{plan.prefix.split('/')[1]} dev uplink" + (" nodad" if plan.six else ""),
            f"address add {plan.outside_gateway} dev uplink" + (" nodad" if plan.six else ""),
        ]
        for name, vni in (("red", 300), ("pink", 400)):
            gateway = getattr(plan, name)
            self.more_devices += [
                f"link add svi-{name} address {SVI_MAC[name]} type bridge forward_delay 0",
                f"link add vxlan-{name} type vxlan id {vni} dstport 4789 local 203.0.113.1 nolearning gbp",
                f"link set vxlan-{name} master svi-{name} up", f"link set svi-{name} master vrf-red up",
                f"address add {gateway}/{length} dev svi-{name}" + (" nodad" if plan.six else ""),
            ]
        self.more_devices += [f"neigh add {address} lladdr {ROUTER_MAC} dev uplink"
                              for address in (plan.other, plan.reflector, plan.outside, plan.translated)]
        super().__init__(nics, program)
        with open(f"{self.directory.name}/host.toml") as file:
            self.text = file.read()
        self.write([])

    def _devices(self):
        super()._devices()
        self.run("ip", "address", "del", "203.0.113.1/32", "dev", "lo")
        # Out of the VRF, by the main table's way.
        self.run("ip", "-6" if self.addresses.six else "-4", "route", "add", "default", "via", self.addresses.outside, "dev", "uplink", "table", "1300")
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        alone.subprocess.run(["ip", "link", "set", "router", "up"], check=True)

    def write(self, services):
        """The host file with these services of the fabric."""
        text, plan = self.text, self.addresses
        if plan.six:
            text = text.replace("203.0.113.0/24", plan.prefix).replace("203.0.113.100", plan.reflector)
        text = text.replace("asn = 64500", f"asn = 64500\nservices = {json.dumps(services)}")
        with open(f"{self.directory.name}/host.toml", "w") as file:
            file.write(text)

    def open(self, services):
        """The same, and the agent has read it."""
        self.write(services)
        self.agent.send_signal(signal.SIGHUP)
        self.until("the agent has read it", lambda: not self.counts_as_open(services) and "not yet")
        self.until("the agent has nothing to do", self.plan)

    def counts_as_open(self, services):
        said = self.run("nft", "list", "set", "inet", "lxmesh", f"fabric_svc{'6' if self.addresses.six else '4'}").stdout
        return ("elements" in said) == bool(services)


class Trial:
    def __init__(self, program, plan):
        self.plan = plan
        self.near, self.watched = Nic(0), Nic(1, outward=",", audit="true")
        self.red, self.pink = Nic(2, "red", only=plan.in_red), Nic(3, "pink", only=plan.in_pink)
        self.nics = [self.near, self.watched, self.red, self.pink]
        self.host = Host(plan, self.nics, program)
        self.wires = alone.Wires()
        self.told = {"seen": [], "wrong": []}
        self.number = 0

    def run(self):
        plan = self.plan
        self.host.take_over(self.nics)
        self.heard = self._listen()
        for target in (plan.own, plan.other, plan.reflector):
            for nic in (self.near, self.watched, self.red):
                self._closed(nic, target)
        self._still_works()
        self._translated()
        self._begun_by_a_host()
        self._vrf()
        self._other_ways()
        self._listed()
        self._withdrawn()

    # -- what is sent ----------------------------------------------------------------------------

    def mark(self):
        self.number += 1
        return b"FABRIC%06d" % self.number

    def packets(self, source, target, mark, port=CLOSED):
        """One of each sort, (name, protocol, payload)."""
        kinds = {
            "tcp": f.tcp(source, target, 5400, port, data=mark), "tcp-ack": f.tcp(source, target, 5401, port, 16, mark),
            "udp": f.udp(source, target, 5402, port, mark), "sctp": f.sctp_init(5403, port, mark), "bgp": f.tcp(source, target, 5404, 179, data=mark),
            "dns": f.udp(source, target, 5405, 53, mark), "mdns-source": f.udp(source, target, 53, 33000, mark),
        }
        for name, payload in kinds.items():
            yield name, OTHERS.get(name.partition("-")[0], f.TCP if name == "bgp" else f.UDP), payload
        yield "echo", *f.echo(source, target, mark)
        kinds = (13, 15, 17) if not self.plan.six else (139,)
        for kind in kinds:
            body = struct.pack("!HH", 77, 1) + mark + bytes(12)
            yield f"query {kind}", self.plan.ping, f.icmp6(source, target, kind, body) if self.plan.six else f.icmp(kind, 0, body)
        for protocol in (2, 4, 41, 47, 50, 89, 112, 136, 253):
            yield f"protocol {protocol}", protocol, mark * 2
        errors = ((1, 4), (3, 0)) if self.plan.six else ((3, 3), (11, 0), (5, 1))
        quoted = f.ip(target, source, f.UDP, f.udp(target, source, 9, 9, mark))[1]
        for kind, code in errors:
            yield f"error {kind}", self.plan.ping, f.icmp6(source, target, kind, bytes(4) + quoted, code) if self.plan.six else f.icmp(kind, code, bytes(4) + quoted)

    def frames(self, nic, target, mark):
        source = nic.address(self.plan)
        for name, protocol, payload in self.packets(source, target, mark):
            yield name, self.frame(nic, target, protocol, payload)
        whole = f.udp(source, target, 5406, CLOSED, mark * 100)
        for cut in (8, 16, 800):
            yield f"fragments at {cut}", self.fragments(nic, target, whole, cut)

    def frame(self, nic, target, protocol, payload, source=None, network=None):
        kind, packet = f.ip(source or nic.address(self.plan), target, protocol, payload)
        return [f.ethernet(SVI_MAC[network or nic.network], nic.mac, kind, packet)]

    def fragments(self, nic, target, whole, cut):
        source, made = nic.address(self.plan), []
        for at, more, part in ((0, 1, whole[:cut]), (cut, 0, whole[cut:])):
            if self.plan.six:
                packet = f.ipv6(source, target, 44, f.fragment6(f.UDP, at, more, self.number * 10 + cut, part))
            else:
                packet = f.ipv4(source, target, f.UDP, part, number=(self.number * 10 + cut) & 0xFFFF, fragment=at // 8 | more << 13)
            made.append(f.ethernet(SVI_MAC[nic.network], nic.mac, f.IP6 if self.plan.six else f.IP4, packet))
        return made

    def from_router(self, target, protocol, payload, source, mac=UPLINK_MAC):
        kind, packet = f.ip(source, target, protocol, payload)
        return [f.ethernet(mac, ROUTER_MAC, kind, packet)]

    # -- what should become of it ----------------------------------------------------------------

    def _closed(self, nic, target):
        before, sent, mark = self._counters(), 0, self.mark()
        for name, frames in self.frames(nic, target, mark):
            self._nowhere(f"{name} from {nic.name} to {target}", nic.peer, frames, mark)
            # Errors about no flow, what is malformed, and of IPv6 other protocols are denied under names of their own.
            sent += not name.startswith("error") and not (name.startswith("protocol") and (self.plan.six or name in MALFORMED))
        after = self._counters()
        if after["fabric_denied"] - before["fabric_denied"] != sent:
            self.wrong(f"fabric_denied: {after['fabric_denied'] - before['fabric_denied']} of {sent} to {target} of {nic.name}")
        if after["audit_passed"] > before["audit_passed"]:
            self.wrong(f"audit lets pass what {nic.name} sends to {target}")

    def _still_works(self):
        plan, source = self.plan, self.near.address(self.plan)
        for nic, gateway in ((self.near, plan.gateway), (self.red, plan.red), (self.pink, plan.pink)):
            mark, own = self.mark(), nic.address(plan)
            answer = f.echo(gateway, own, mark, reply=True)[1]
            self._arrives(f"the gateway answers {nic.name}", nic.peer, answer, nic.peer, self.frame(nic, gateway, *f.echo(own, gateway, mark)))
        mark = self.mark()
        self._arrives("outside is open", "router", mark, self.near.peer, self.frame(self.near, plan.outside, f.UDP, f.udp(source, plan.outside, 5410, CLOSED, mark)))

    def _translated(self):
        """By somebody's rule, before routing, for what the instance sends elsewhere; and away from the fabric."""
        plan, family = self.plan, self.plan.family
        for target in (plan.own, plan.other, plan.reflector):
            with self._rules(f"{family} daddr {plan.translated} dnat to {target}"):
                for nic in (self.near, self.red):
                    source = nic.address(plan)
                    for name, protocol, payload in self.packets(source, plan.translated, mark := self.mark()):
                        if name.startswith(("error", "tcp-ack")):
                            continue
                        before = self._counters()
                        self._nowhere(f"{name} from {nic.name}, translated to {target}", nic.peer, self.frame(nic, plan.translated, protocol, payload), mark)
                        if name in ("tcp", "udp", "echo") and self._counters()["to_fabric_denied"] <= before["to_fabric_denied"]:
                            self.wrong(f"to_fabric_denied did not rise by {name} of {nic.name} translated to {target}")
                    whole = f.udp(source, plan.translated, 5411, CLOSED, (mark := self.mark()) * 100)
                    self._nowhere("fragments, translated", nic.peer, self.fragments(nic, plan.translated, whole, 800), mark)
        for rule in (f"{family} daddr {plan.other} dnat to {plan.outside}", f"{family} daddr {plan.own} udp dport {CLOSED} redirect to :67"):
            with self._rules(rule):
                for target in (plan.other, plan.own):
                    source, mark = self.near.address(plan), self.mark()
                    self._nowhere(f"to {target}, {rule}", self.near.peer, self.frame(self.near, target, f.UDP, f.udp(source, target, 5412, CLOSED, mark)), mark)
        with self._rules(f"{family} daddr {plan.translated} udp dport {CLOSED} dnat to {'[' + plan.own + ']' if plan.six else plan.own}:67"):
            source, mark = self.near.address(plan), self.mark()
            before = self._counters()["to_fabric_denied"]
            self._nowhere("translated to a port of DHCP", self.near.peer, self.frame(self.near, plan.translated, f.UDP, f.udp(source, plan.translated, 5413, CLOSED, mark)), mark)
            if self._counters()["to_fabric_denied"] <= before:
                self.wrong("a port of DHCP is open by translation")

    def _begun_by_a_host(self):
        """Answers pass, in either direction, and errors about them; what only looks like one does not."""
        plan, nic = self.plan, self.near
        own, other = nic.address(plan), plan.other
        question = f.udp(other, own, 4000, INWARD, self.mark())
        self._arrives("a host's question", nic.peer, question, "router", self.from_router(own, f.UDP, question, other))
        answer = f.udp(own, other, INWARD, 4000, self.mark())
        self._arrives("its answer", "router", answer, nic.peer, self.frame(nic, other, f.UDP, answer))
        for port, to in ((INWARD + 1, 4000), (INWARD, 4001)):
            payload = f.udp(own, other, port, to, mark := self.mark())
            self._nowhere(f"no answer, {port} to {to}", nic.peer, self.frame(nic, other, f.UDP, payload), mark)
        payload = f.udp(own, plan.reflector, INWARD, 4000, mark := self.mark())
        self._nowhere("the answer to another host", nic.peer, self.frame(nic, plan.reflector, f.UDP, payload), mark)
        quoted = f.ip(other, own, f.UDP, question)[1]
        for target, passes in ((other, True), (plan.reflector, False), (plan.own, False)):
            error = f.icmp6(own, target, 1, bytes(4) + quoted, 4) if plan.six else f.icmp(3, 3, bytes(4) + quoted)
            frames = self.frame(nic, target, plan.ping, error)
            if passes:
                self._arrives("an error about it", "router", error, nic.peer, frames)
            else:
                self._nowhere(f"the error to {target}", nic.peer, frames, error)
        mark = self.mark()
        answer = f.echo(own, other, mark, reply=True)[1]
        self._arrives("a host's ping", nic.peer, mark, "router", self.from_router(own, *f.echo(other, own, mark), other))
        self._arrives("is answered", "router", answer, nic.peer, self.frame(nic, other, plan.ping, answer))

    def _vrf(self):
        """Its own machines have addresses of the fabric, and are none of its hosts."""
        plan, source, target = self.plan, self.red.address(self.plan), self.pink.address(self.plan)
        mark = self.mark()
        payload = f.udp(source, target, 5420, INWARD, mark)
        self._arrives("from red to pink", self.pink.peer, mark, self.red.peer, self.frame(self.red, target, f.UDP, payload))
        mark = self.mark()
        self._arrives("the answer", self.red.peer, mark, self.pink.peer, self.frame(self.pink, source, f.UDP, f.udp(target, source, INWARD, 5420, mark)))
        mark = self.mark()
        answer = f.echo(plan.pink, source, mark, reply=True)[1]
        self._arrives("the other network's gateway", self.red.peer, answer, self.red.peer, self.frame(self.red, plan.pink, *f.echo(source, plan.pink, mark)))

    def _other_ways(self):
        """Through the tunnel from another supervisor; IPv4 addresses written as IPv6."""
        plan, nic = self.plan, self.near
        own = nic.address(plan)
        for source_mac in (SVI_MAC["vpc"], "00:16:3e:99:99:99"):
            for target in (plan.own, plan.other):
                mark = self.mark()
                kind, packet = f.ip(own, target, f.UDP, f.udp(own, target, 5430, CLOSED, mark))
                inner = b"\x08\0\0\0" + struct.pack("!I", 100 << 8) + f.ethernet(SVI_MAC["vpc"], source_mac, kind, packet)
                if not plan.six:
                    outer = f.udp(plan.other, plan.own, 5431, 4789, inner)
                    before = self._counters()["overlay_to_host"]
                    self._nowhere("through the tunnel", "router", self.from_router(plan.own, f.UDP, outer, plan.other), mark)
                    if self._counters()["overlay_to_host"] <= before:
                        self.wrong("overlay_to_host did not rise")
        six = str(nic.ipv6)
        for target in ("::ffff:203.0.113.1", "::203.0.113.1", "64:ff9b::203.0.113.1", "2002:cb00:7101::1"):
            mark = self.mark()
            kind, packet = f.ip(six, target, f.UDP, f.udp(six, target, 5432, CLOSED, mark))
            # That there is no route is said with the packet in it.
            self._nowhere(f"to {target}", nic.peer, [f.ethernet(SVI_MAC["vpc"], nic.mac, kind, packet)], mark, but=nic.peer)

    def _listed(self):
        plan, nic = self.plan, self.near
        source = nic.address(plan)
        self.host.open([f"udp/{LISTED}", f"{plan.echo}@{plan.other}"])
        for target in (plan.other, plan.reflector):
            mark = self.mark()
            payload = f.udp(source, target, 5440, LISTED, mark)
            self._arrives(f"listed, to {target}", "router", mark, nic.peer, self.frame(nic, target, f.UDP, payload))
            mark = self.mark()
            self._arrives("its answer", nic.peer, mark, "router", self.from_router(source, f.UDP, f.udp(target, source, LISTED, 5440, mark), target))
            whole = f.udp(source, target, 5441, LISTED, (mark := self.mark()) * 100)
            self._arrives("listed, in fragments", "router", mark, nic.peer, self.fragments(nic, target, whole, 800))
        mark = self.mark()
        self._arrives("listed, at this host", None, mark, nic.peer, self.frame(nic, plan.own, f.UDP, f.udp(source, plan.own, 5442, LISTED, mark)))
        mark = self.mark()
        self._arrives("listed ping", "router", mark, nic.peer, self.frame(nic, plan.other, *f.echo(source, plan.other, mark)))
        mark = self.mark()
        self._nowhere("ping of another", nic.peer, self.frame(nic, plan.reflector, *f.echo(source, plan.reflector, mark)), mark)
        for name, protocol, payload in self.packets(source, plan.other, mark := self.mark()):
            if name != "echo":
                self._nowhere(f"{name}, not listed", nic.peer, self.frame(nic, plan.other, protocol, payload), mark)
        with self._rules(f"{plan.family} daddr {plan.translated} dnat to {plan.other}"):
            mark = self.mark()
            self._arrives("listed, translated", "router", mark, nic.peer, self.frame(nic, plan.translated, f.UDP, f.udp(source, plan.translated, 5443, LISTED, mark)))
        # Who has no such service does not get it by the host file.
        self.pink.outward = ","
        self.host.take_over(self.nics)
        own = self.pink.address(plan)
        self._nowhere("listed, by who may not", self.pink.peer, self.frame(self.pink, plan.other, f.UDP, f.udp(own, plan.other, 5444, LISTED, mark := self.mark())), mark)

    def _withdrawn(self):
        plan, nic = self.plan, self.near
        source = nic.address(plan)
        self.host.open([])
        payload = f.udp(source, plan.other, 5440, LISTED, mark := self.mark())
        back = f.udp(plan.other, source, LISTED, 5440, again := self.mark())
        self._nowhere("withdrawn", nic.peer, self.frame(nic, plan.other, f.UDP, payload), mark)
        self._nowhere("its answer", "router", self.from_router(source, f.UDP, back, plan.other), again)

    # -- looks -----------------------------------------------------------------------------------

    def wrong(self, what):
        self.told["wrong"].append(what)

    def _listen(self):
        """A socket of the host for all addresses, in both families."""
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self.host.inside.pid}/ns/net", os.O_RDONLY)
        os.setns(there, os.CLONE_NEWNET)
        sockets = []
        for port in (LISTED, CLOSED, 67, 4000):
            one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            one.bind(("::", port))
            one.setblocking(False)
            sockets.append(one)
        os.setns(home, os.CLONE_NEWNET)
        return sockets

    @contextlib.contextmanager
    def _rules(self, rule):
        text = f"table {self.plan.family} theirs {{ chain before {{ type nat hook prerouting priority dstnat; {rule}\n }}\n}}\n"
        self.host.run("nft", "-f", "-", input=text)
        try:
            yield
        finally:
            self.host.run("nft", "delete", "table", self.plan.family, "theirs")

    def _send(self, end, frames):
        for frame in frames:
            self.wires.sender.sendto(frame, (end, 0))

    def _arrives(self, what, where, needle, end, frames):
        """Seen at the other end `where`; by a socket of the host if that is None."""
        deadline, found = time.monotonic() + 10, False
        while not found and time.monotonic() < deadline:
            self._send(end, frames)
            found = self._seen(where, needle)
        self.told["seen"].append(what)
        if not found:
            self.wrong(f"{what}: not at {where}; {self._rose()}")

    def _nowhere(self, what, end, frames, needle, but=None):
        """Neither at the uplink nor at a socket of the host, and unanswered by it."""
        self._send(end, frames)
        if where := self._anywhere(needle) - {but}:
            self.wrong(f"{what}: at {where}")
        self.told["seen"].append(what)

    def _seen(self, where, needle):
        found = False
        while select.select([self.wires.receiver, *self.heard], [], [], 0.05)[0]:
            for at, data in self._read():
                found = found or at == where and needle in data
            if found:
                break
        return found

    def _anywhere(self, needle):
        places = set()
        while select.select([self.wires.receiver, *self.heard], [], [], 0.03)[0]:
            places |= {str(at) for at, data in self._read() if needle in data}
        return places

    def _read(self):
        for one in self.heard:
            with contextlib.suppress(BlockingIOError):
                while True:
                    yield None, one.recv(4096)
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, (interface, *_) = self.wires.receiver.recvfrom(4096)
                yield interface, frame

    def _counters(self):
        found = {}
        for family in ("bridge", "inet"):
            said = self.host.run("nft", "-j", "list", "counters", "table", family, "lxmesh").stdout
            found |= {one["counter"]["name"]: one["counter"]["packets"] for one in json.loads(said)["nftables"] if "counter" in one}
        return found

    def _rose(self):
        return {name: count for name, count in self._counters().items() if count}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--lxmesh", required=True)
    arguments.add_argument("--family", choices=("4", "6"), default="4")
    chosen = arguments.parse_args()
    trial = Trial(chosen.lxmesh, Plan(chosen.family == "6"))
    try:
        trial.run()
    finally:
        trial.host.end()
    trial.told["count"] = len(trial.told["seen"])
    print(json.dumps(trial.told, indent=1))


if __name__ == "__main__":
    sys.exit(main())
