"""The attacks that the data path has to stop, as frames that a container sends: the catalogue's
frame, and attacks on identity, ARP and neighbour discovery. attacks_ip.py and attacks_sums.py have the others."""

import dataclasses
import struct

from labkit.scenarios import frames as f

PREFIX = "LXMESHLAB"
ABSENT4, ABSENT6 = "192.0.2.200", "2001:db8::dead"
# What the attacker may send, and what its victims accept of it.
OPEN_PORT, HOST_PORT, ONE_WAY_PORT, CLOSED_PORT, FLOW_PORT = 5300, 5999, 5302, 5301, 5310


@dataclasses.dataclass(frozen=True)
class End:
    """Somebody with addresses: the attacker, a victim, the gateway."""

    mac: str
    ipv4: str
    ipv6: str
    link_local: str

    @property
    def addresses(self):
        return (self.ipv4, self.ipv6)


@dataclasses.dataclass
class Attack:
    """One line of the list: what is sent, where it may arrive nevertheless, what counts it."""

    name: str
    text: str
    original: str  # what became of it on the first implementation: "stopped", "succeeded", "not tried"
    counters: tuple  # each of them must rise
    may: tuple = ()  # places where frames of it may be seen
    frames: list = dataclasses.field(default_factory=list)
    deferred: list = dataclasses.field(default_factory=list)  # (start, offset, frame), see attacks_sums.py
    twins: list = dataclasses.field(default_factory=list)  # what must still pass
    talks: list = dataclasses.field(default_factory=list)  # conversations that must work, see probe.py
    floods: list = dataclasses.field(default_factory=list)
    forbidden: list = dataclasses.field(default_factory=list)  # further bytes that must be seen nowhere
    measure: dict = dataclasses.field(default_factory=dict)
    judge: object = None  # (attack's result) → complaint or None
    mark: bytes = b""

    def plan(self):
        """The attempt as probe.py reads it."""
        return {
            "frames": [frame.hex() for frame in self.frames],
            "deferred": [(start, offset, frame.hex()) for start, offset, frame in self.deferred], "twins": self.twins, "talks": self.talks,
            "forbidden": self.forbidden, "measure": self.measure,
            "floods": [flood | {"frame": flood["frame"].hex()} for flood in self.floods],
        }

    def add(self, *frames):
        self.frames += frames

    def twin(self, name, where, needle, *frames):
        """`frames` are sent, and `needle` must then be seen."""
        self.twins.append({"name": name, "at": where, "needle": needle.hex(), "frames": [one.hex() for one in frames]})


class Catalogue:
    """All attacks, with what they are about. `own` attacks `near` (same host), `far` and the host."""

    def __init__(self, own, near, far, gateway, underlay, far_underlay):
        self.own, self.near, self.far, self.gateway = own, near, far, gateway
        self.victims = (near, far)
        self.underlay, self.far_underlay = underlay, far_underlay
        self.attacks = []

    def attack(self, name, text, original, *counters, **more):
        """A new attack with its twins: pings of both families to both victims and the gateway."""
        number = len(self.attacks)
        attack = Attack(name, text, original, counters, mark=f"{PREFIX}{number:03d}".encode().ljust(16, b"."), **more)
        for who, end in (("near", self.near), ("far", self.far), ("gateway", self.gateway)):
            for address, source in zip(end.addresses, self.own.addresses):
                mark = f"LXMESHOK{number:03d}{who[0]}{':' in address:d}".encode().ljust(16, b".")
                kind, packet = f.ip(source, address, *f.echo(source, address, mark))
                attack.twin(f"ping {who} {address}", "eve", mark, f.ethernet(end.mac, self.own.mac, kind, packet))
        self.attacks.append(attack)
        return attack

    # -- frames ------------------------------------------------------------------------------

    def packet(self, target_mac, source, target, protocol, payload, source_mac=None, hops=64):
        kind, packet = f.ip(source, target, protocol, payload, hops)
        return f.ethernet(target_mac, source_mac or self.own.mac, kind, packet)

    def datagram(self, target_mac, source, target, port, data, source_mac=None, source_port=5400):
        return self.packet(target_mac, source, target, f.UDP, f.udp(source, target, source_port, port, data), source_mac)

    def allowed(self, attack, target_mac, source, target, source_mac=None):
        """An echo request and allowed services, of the addresses' family."""
        sent = [f.echo(source, target, attack.mark)]
        sent += [(f.UDP, f.udp(source, target, 5400, port, attack.mark)) for port in (53, OPEN_PORT)]
        sent.append((f.TCP, f.tcp(source, target, 5400, 80, data=attack.mark)))
        attack.add(*(self.packet(target_mac, source, target, *one, source_mac) for one in sent))

    def nd(self, target_mac, source, target, kind, body, hops=255, code=0):
        return self.packet(target_mac, source, target, f.ICMP6, f.icmp6(source, target, kind, body, code), hops=hops)

    def forbid(self, attack, needle):
        for place in ("near", "far", "host", "tunnel"):
            attack.forbidden.append({"at": place, "needle": needle.hex()})

    def arp_twin(self, attack):
        """An honest request, which the host answers in the victim's name."""
        reply = struct.pack("!H", 2) + f.mac(self.near.mac) + f.four(self.near.ipv4)
        request = f.arp(1, self.own.mac, self.own.ipv4, "00:00:00:00:00:00", self.near.ipv4)
        attack.twin("ARP for near", "eve", reply, f.ethernet(f.BROADCAST, self.own.mac, f.ARP, request))

    def ns_twin(self, attack):
        """An honest solicitation, which reaches whom it is for."""
        near = self.near
        frame = self.nd(near.mac, self.own.ipv6, near.ipv6, 135, bytes(4) + f.six(near.ipv6) + option(1, self.own.mac))
        attack.twin("NS to near", "near", frame[14:], frame)


def option(kind, mac):
    """A link-layer address option of neighbour discovery."""
    return bytes([kind, 1]) + f.mac(mac)


def identity(c):
    """Frames in somebody else's name."""
    own, near, far, gateway = c.own, c.near, c.far, c.gateway
    a = c.attack("mac-spoof", "source MAC of another container", "stopped", "spoofed_source")
    for thief, victim in ((far, near), (near, far), (near, gateway)):
        for source, target in zip(own.addresses, victim.addresses):
            a.add(c.packet(victim.mac, source, target, *f.echo(source, target, a.mark), thief.mac))
    a = c.attack("mac-gateway", "source MAC of the gateway", "stopped", "spoofed_source")
    for victim in c.victims:
        for source in (own, gateway):
            for four_or_six, target in zip(source.addresses, victim.addresses):
                a.add(c.packet(victim.mac, four_or_six, target, *f.echo(four_or_six, target, a.mark), gateway.mac))
    # the bridge itself drops these before any rule: nothing counts them
    a = c.attack("mac-group", "group and zero source MAC", "stopped")
    for source in ("00:00:00:00:00:00", f.BROADCAST, "01:00:5e:00:00:01", "33:33:00:00:00:01"):
        a.add(*(c.packet(v.mac, own.ipv4, v.ipv4, *f.echo(own.ipv4, v.ipv4, a.mark), source) for v in c.victims))

    a = c.attack("ip4-spoof", "IPv4 source of others and martians, to allowed services", "stopped", "spoofed_source")
    for victim, thief in ((near, far), (far, near), (gateway, near)):
        for source in (thief.ipv4, gateway.ipv4, ABSENT4, "127.0.0.1", "224.0.0.1", "255.255.255.255", "203.0.113.7"):
            a.add(c.packet(victim.mac, source, victim.ipv4, *f.echo(source, victim.ipv4, a.mark)))
        c.allowed(a, victim.mac, thief.ipv4, victim.ipv4)
    a = c.attack("ip4-zero", "IPv4 source 0.0.0.0, not DHCP", "stopped", "spoofed_source")
    for victim in (near, far, gateway):
        c.allowed(a, victim.mac, "0.0.0.0", victim.ipv4)
    a = c.attack("ip6-spoof", "IPv6 source of others, link-local and mapped ones too", "stopped", "spoofed_source")
    for victim, thief in ((near, far), (far, near), (gateway, near)):
        sources = (thief.ipv6, thief.link_local, gateway.ipv6, gateway.link_local, "::1", f"::ffff:{thief.ipv4}", ABSENT6)
        for source in sources:
            a.add(c.packet(victim.mac, source, victim.ipv6, *f.echo(source, victim.ipv6, a.mark)))
            a.add(c.datagram(victim.mac, source, victim.ipv6, 53, a.mark))
    a = c.attack("ip6-unspec", "IPv6 source ::, echo, UDP, NA, and NS that deny others their address", "stopped",
                 "spoofed_source", "nd_denied")
    for victim in c.victims:
        c.allowed(a, victim.mac, "::", victim.ipv6)
        a.add(c.nd(victim.mac, "::", victim.ipv6, 136, bytes(4) + f.six(own.ipv6)))
        group = f.solicited_node(victim.ipv6)
        a.add(c.nd(f.group_mac(group), "::", group, 135, bytes(4) + f.six(victim.ipv6)))
    for name, family in (("spoof-established-4", 0), ("spoof-established-6", 1)):
        a = c.attack(name, "into others' established flow, with their source address", "succeeded", "spoofed_source")
        a.add(c.datagram(near.mac, far.addresses[family], near.addresses[family], FLOW_PORT, a.mark, source_port=OPEN_PORT))
        a.add(c.datagram(far.mac, near.addresses[family], far.addresses[family], OPEN_PORT, a.mark, source_port=FLOW_PORT))


def arp(c):
    own, near, far, gateway = c.own, c.near, c.far, c.gateway

    def frame(attack, target, *words, kind=f.ARP, **more):
        attack.add(f.ethernet(target, own.mac, kind, f.arp(*words, attack.mark, **more)))

    a = c.attack("arp-reply", "ARP reply: another's address is mine", "succeeded", "arp_denied")
    for address in (far.ipv4, gateway.ipv4):
        frame(a, near.mac, 2, own.mac, address, near.mac, near.ipv4)
    a = c.attack("arp-reply-remote", "the same across hosts", "succeeded", "arp_denied")
    for address in (near.ipv4, gateway.ipv4):
        frame(a, far.mac, 2, own.mac, address, far.mac, far.ipv4)
    a = c.attack("arp-garp", "gratuitous ARP for others and the gateway", "succeeded", "arp_denied")
    for address in (near.ipv4, gateway.ipv4):
        for target in (f.BROADCAST, far.mac, gateway.mac):
            for operation in (1, 2):
                frame(a, target, operation, own.mac, address, f.BROADCAST, address)
    a = c.attack("arp-request", "ARP request with another's sender address", "succeeded", "arp_denied")
    for victim, thief in ((near, far), (far, near), (gateway, near)):
        for target in (f.BROADCAST, victim.mac):
            frame(a, target, 1, own.mac, thief.ipv4, "00:00:00:00:00:00", victim.ipv4)
    a = c.attack("arp-host-poison", "ARP request with a sender address of nobody", "succeeded", "arp_denied")
    for target in (f.BROADCAST, gateway.mac):
        frame(a, target, 1, own.mac, ABSENT4, "00:00:00:00:00:00", gateway.ipv4)
    a = c.attack("arp-mismatch", "own address at another's MAC", "succeeded", "arp_denied")
    for target in (f.BROADCAST, near.mac, far.mac):
        frame(a, target, 1, near.mac, own.ipv4, "00:00:00:00:00:00", gateway.ipv4)
    a = c.attack("arp-odd", "odd operations, types and sizes; RARP", "succeeded", "arp_denied", "ethertype_denied")
    for target in (f.BROADCAST, near.mac):
        for operation in (3, 4, 8, 9, 10, 0):
            frame(a, target, operation, own.mac, own.ipv4, near.mac, near.ipv4)
        for odd in ({"hardware": 6}, {"protocol": f.IP6}, {"sizes": (8, 4)}, {"sizes": (6, 16)}):
            frame(a, target, 1, own.mac, own.ipv4, near.mac, near.ipv4, **odd)
        frame(a, target, 3, own.mac, own.ipv4, near.mac, near.ipv4, kind=f.RARP)
    for a in c.attacks[-7:]:
        c.arp_twin(a)


def neighbour_discovery(c):
    own, near, far, gateway = c.own, c.near, c.far, c.gateway

    def advert(address, *options, flags=0x60000000):
        return struct.pack("!I", flags) + f.six(address) + b"".join(options)

    a = c.attack("na-spoof", "neighbour advertisement for others and the gateway", "stopped", "nd_denied")
    for victim, thief in ((near, far), (far, near)):
        for claimed in (thief.ipv6, gateway.ipv6, gateway.link_local):
            for flags in (0x60000000, 0x20000000, 0xA0000000):
                a.add(c.nd(victim.mac, own.ipv6, victim.ipv6, 136, advert(claimed, option(2, own.mac), flags=flags)))
            a.add(c.nd(f.ALL_NODES_MAC, own.link_local, "ff02::1", 136, advert(claimed, option(2, own.mac))))
    a = c.attack("na-tlla", "own address at another's MAC; extra options; no hop limit", "succeeded", "nd_denied")
    for victim, thief in ((near, far), (far, near)):
        for options, hops in (([option(2, thief.mac)], 255), ([option(2, own.mac), option(2, thief.mac)], 255),
                              ([option(1, thief.mac)], 255), ([option(2, own.mac)], 64)):
            a.add(c.nd(victim.mac, own.ipv6, victim.ipv6, 136, advert(own.ipv6, *options), hops))
    c.ns_twin(a)
    a = c.attack("ns-slla", "solicitation with another's MAC as own", "succeeded", "nd_denied")
    for victim, thief in ((near, far), (far, near), (gateway, near)):
        for options in ([option(1, thief.mac)], [option(1, own.mac), option(1, thief.mac)]):
            a.add(c.nd(victim.mac, own.ipv6, victim.ipv6, 135, bytes(4) + f.six(victim.ipv6) + b"".join(options)))
    c.ns_twin(a)
    a = c.attack("nd-ext", "NA and NS behind extension headers and in fragments", "stopped",
                 "extension_header_denied", "nd_denied")
    for victim, thief in ((near, far), (far, near)):
        for kind, body in ((136, advert(thief.ipv6, option(2, own.mac))),
                           (135, bytes(4) + f.six(victim.ipv6) + option(1, thief.mac))):
            inner = f.icmp6(own.ipv6, victim.ipv6, kind, body)
            a.add(*hidden(c, victim.mac, own.ipv6, victim.ipv6, inner))
            c.forbid(a, inner)
    c.ns_twin(a)
    a = c.attack("nd-host-poison", "solicitation from an address of nobody, or another's", "stopped", "spoofed_source")
    for source in (ABSENT6, near.ipv6, "fe80::dead"):
        for target_mac, target in ((gateway.mac, gateway.ipv6), (f.group_mac("ff02::1:ff00:1"), "ff02::1:ff00:1")):
            a.add(c.nd(target_mac, source, target, 135, bytes(4) + f.six(gateway.ipv6) + option(1, own.mac)))
    a = c.attack("ra-rogue", "router advertisements: plain, behind headers, in fragments", "stopped",
                 "nd_denied", "extension_header_denied")
    body = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + option(1, own.mac)
    for victim in (near, far, gateway):
        for target_mac, target in ((victim.mac, victim.link_local), (f.ALL_NODES_MAC, "ff02::1")):
            inner = f.icmp6(own.link_local, target, 134, body)
            a.add(c.packet(target_mac, own.link_local, target, f.ICMP6, inner, hops=255))
            a.add(*hidden(c, target_mac, own.link_local, target, inner))
            c.forbid(a, inner)
    a = c.attack("redirect6", "ICMPv6 redirect, as oneself and as the gateway", "stopped", "out_denied", "spoofed_source")
    for victim in c.victims:
        for source in (own.link_local, gateway.link_local):
            for target in (victim.link_local, victim.ipv6):
                body = bytes(4) + f.six(own.link_local) + f.six("2001:db8:1::1") + option(2, own.mac)
                a.add(c.nd(victim.mac, source, target, 137, body))


def hidden(c, target_mac, source, target, inner, protocol=f.ICMP6, number=0x1000):
    """The packet behind hop-by-hop and destination options, in an atomic and in two real fragments."""
    def of(header, payload):
        return c.packet(target_mac, source, target, header, payload, hops=255)

    for header in (0, 60):
        yield of(header, f.extension(header, protocol)[1] + inner)
    yield of(0, f.extension(0, 60)[1] + f.extension(60, protocol)[1] + inner)
    yield of(44, f.fragment6(protocol, 0, 0, number, inner))
    yield of(60, f.extension(60, 44)[1] + f.fragment6(protocol, 0, 0, number + 1, inner))
    cut = 8 * (len(inner) // 16)
    if cut:
        yield of(44, f.fragment6(protocol, 0, 1, number + 2, inner[:cut]))
        yield of(44, f.fragment6(protocol, cut, 0, number + 2, inner[cut:]))
        options = f.extension(60, protocol)[1]
        yield of(44, f.fragment6(60, 0, 1, number + 3, options))
        yield of(44, f.fragment6(60, len(options), 0, number + 3, inner))
