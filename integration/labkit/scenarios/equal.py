#!/usr/bin/env python3
"""Two networks with the same addresses, one of them in a VRF, each with somebody outside: what one has begun is
nobody else's, and ends with its own service.

  unshare -n -m python3 equal.py --lxmesh PROGRAM

Stands alone, with alone.py and frames.py beside it, on a kernel that has the whole ruleset. Prints what was
seen, as JSON."""

import argparse
import json
import select
import sys
import time

import alone
import frames as f

GATEWAY = ("192.0.2.1", "2001:db8::1")
OUTSIDE = ("198.51.100.9", "2001:db8:77::9")
SVI_MAC = {"vpc": "02:00:00:00:00:64", "red": "02:00:00:00:01:2c"}
# By which device a network reaches who is outside: its MAC, the MAC of who is there, and the end that this process has.
UPLINK = {"vpc": ("02:aa:00:00:00:01", "02:aa:00:00:00:02", "out-vpc"), "red": ("02:aa:00:00:00:03", "02:aa:00:00:00:04", "out-red")}
ZONES = {"vpc": 0, "red": 300}


class Nic(alone.Nic):
    def __init__(self, number, network, outward):
        super().__init__(number)
        self.network, self.outward = network, outward

    def keys(self):
        return {"parent": self.network, "out_services": self.outward}


class Host(alone.Host):
    more_text = """
[[network]]
name = "red"
vni = 300
vrf = "vrf-red"
gateway = ["192.0.2.1/24", "2001:db8::1/64"]
[host]
uplinks = ["up-vpc", "up-red"]
"""
    more_devices = (
        "link add vrf-red type vrf table 1300", "link set vrf-red up",
        f"link add svi-red address {SVI_MAC['red']} type bridge forward_delay 0",
        "link add vxlan-red type vxlan id 300 dstport 4789 local 203.0.113.1 nolearning gbp",
        "link set vxlan-red master svi-red up", "link set svi-red master vrf-red up",
        "address add 192.0.2.1/24 dev svi-red", "address add 2001:db8::1/64 dev svi-red nodad",
    )

    def _devices(self):
        super()._devices()
        lines = []
        for network, (mac, there, end) in UPLINK.items():
            lines += [f"link add up-{network} address {mac} type veth peer name {end} address {there} netns {alone.os.getpid()}"]
            lines += ["link set up-red master vrf-red"] if network == "red" else []
            lines += [f"link set up-{network} up", f"address add 198.51.100.1/24 dev up-{network}",
                      f"address add 2001:db8:77::1/64 dev up-{network} nodad"]
            lines += [f"neigh add {address} lladdr {there} dev up-{network}" for address in OUTSIDE]
        self.run("ip", "-batch", "-", input="\n".join(lines))
        for _, _, end in UPLINK.values():
            alone.subprocess.run(["ip", "link", "set", end, "up"], check=True)
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")


class Trial:
    def __init__(self, program):
        # The same addresses.
        self.a, self.b = Nic(0, "vpc", "udp/53"), Nic(1, "red", "udp/53")
        self.b.ipv4, self.b.ipv6 = self.a.ipv4, self.a.ipv6
        self.host = Host([self.a, self.b], program)
        self.wires = alone.Wires()
        self.told = {"seen": [], "wrong": []}

    def run(self):
        self.host.take_over([self.a, self.b])
        for family in (0, 1):
            self._family(family)
        self._withdrawn()

    def _family(self, family):
        own = str((self.a.ipv4, self.a.ipv6)[family])
        # The very same question to the gateway that both have.
        asked, answered = (f.echo(own, GATEWAY[family], b"EQUAL"), f.echo(GATEWAY[family], own, b"EQUAL", reply=True))
        # Of IPv6 the one in the VRF is answered by way of the other one's gateway, see docs/architecture.md.
        for nic in (self.a, self.b) if family == 0 else (self.a,):
            self._expect("the gateway answers", nic.peer, answered[1],
                         (nic.peer, self._frame(SVI_MAC[nic.network], nic.mac, own, GATEWAY[family], *asked)))
        for nic, other, port in ((self.a, self.b, 4000), (self.b, self.a, 4001)):
            mac, there, end = UPLINK[nic.network]
            question = f.udp(own, OUTSIDE[family], port, 53, b"EQUAL question")
            answer = f.udp(OUTSIDE[family], own, 53, port, b"EQUAL answer")
            self._expect("a question leaves", end, question,
                         (nic.peer, self._frame(SVI_MAC[nic.network], nic.mac, own, OUTSIDE[family], f.UDP, question)))
            mine = (end, self._frame(mac, there, OUTSIDE[family], own, f.UDP, answer))
            self._expect("its answer arrives", nic.peer, answer, mine)
            other_mac, other_there, other_end = UPLINK[other.network]
            before = self._counter("foreign_reply")
            self._expect("the same answer from the other one's outside does not", other.peer, answer,
                         (other_end, self._frame(other_mac, other_there, OUTSIDE[family], own, f.UDP, answer)), seen=False)
            if self._counter("foreign_reply") <= before:
                self.told["wrong"].append("foreign_reply did not rise")
            self._expect("it goes on", nic.peer, answer, mine)
        for nic, port in ((self.a, 4000), (self.b, 4001)):
            zone = f"zone-orig={ZONES[nic.network]}" if ZONES[nic.network] else "zone=0"
            if zone not in self._tracked(own, port):
                self.told["wrong"].append(f"not in the zone of {nic.network}: {self._tracked(own, port)!r}")

    def _withdrawn(self):
        """What b had begun ends with its service, although a has the address, too."""
        self.b.outward = ","
        self.host.take_over([self.a, self.b])
        for own in (str(self.a.ipv4), str(self.a.ipv6)):
            if left := self._tracked(own, 4001):
                self.told["wrong"].append(f"b's connection outlives its service: {left!r}")
            if not self._tracked(own, 4000):
                self.told["wrong"].append("a's connection ended with b's service")

    # -- looks -----------------------------------------------------------------------------------

    def _frame(self, to_mac, mac, source, target, protocol, payload):
        kind, packet = f.ip(source, target, protocol, payload)
        return f.ethernet(to_mac, mac, kind, packet)

    def _expect(self, what, end, needle, sent, seen=True):
        interface, frame = sent
        deadline = time.monotonic() + (10 if seen else 1)
        found = False
        while not found and time.monotonic() < deadline:
            self.wires.sender.sendto(frame, (interface, 0))
            found = self._seen(end, needle)
        self.told["seen"].append(f"{what}: {found}")
        if found != seen:
            self.told["wrong"].append(f"{what}, at {end}: {found}")

    def _seen(self, end, needle):
        found = False
        while select.select([self.wires.receiver], [], [], 0.3)[0]:
            frame, (interface, *_) = self.wires.receiver.recvfrom(2048)
            found = found or interface == end and needle in frame
        return found

    def _counter(self, name):
        said = self.host.run("nft", "-j", "list", "counters", "table", "bridge", "lxmesh").stdout
        return next(one["counter"]["packets"] for one in json.loads(said)["nftables"] if one.get("counter", {}).get("name") == name)

    def _tracked(self, source, port):
        address = alone.ipaddress.ip_address(source).exploded
        lines = self.host.run("cat", "/proc/net/nf_conntrack").stdout.splitlines()
        return "".join(line for line in lines if f"src={address} " in line and f"sport={port} dport=53" in line)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--lxmesh", required=True)
    trial = Trial(arguments.parse_args().lxmesh)
    try:
        trial.run()
    finally:
        trial.host.end()
    print(json.dumps(trial.told, indent=1))


if __name__ == "__main__":
    sys.exit(main())
