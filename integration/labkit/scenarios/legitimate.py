"""What must keep working for a container, with the bytes that show it: the other half of the attacks."""

import struct

from labkit import fleet
from labkit.scenarios import frames as f
from labkit.scenarios.attacks import CLOSED_PORT, OPEN_PORT, option

# A stranger behind the host, by a link whose packets are small. It is on a bridge: a veth by itself would
# be taken for an instance's device, and be closed.
STRANGER, STRANGER4, STRANGER6 = "/lab-ext", "100.67.0.2", "2001:db8:ee::2"
MAKE_STRANGER = f"""\
set -eu
ip netns add {STRANGER[1:]}
ip link add lab-ext0 mtu 1280 type bridge
ip link add lab-ext1 mtu 1280 type veth peer name eth0 mtu 1280 netns {STRANGER[1:]}
ip link set lab-ext1 master lab-ext0 up
ip addr add 100.67.0.1/24 dev lab-ext0
ip addr add 2001:db8:ee::1/64 dev lab-ext0 nodad
ip link set lab-ext0 up
there() {{ ip -n {STRANGER[1:]} "$@"; }}
there addr add {STRANGER4}/24 dev eth0
there addr add {STRANGER6}/64 dev eth0 nodad
there link set eth0 up
there route add default via 100.67.0.1
there -6 route add default via 2001:db8:ee::1
"""
REMOVE_STRANGER = f"ip netns del {STRANGER[1:]}; ip link del lab-ext0 2> /dev/null; true"


def dhcp(c):
    """Answers come, by unicast and by broadcast, and come to nobody else."""
    own = c.own
    for name, flags, number in (("dhcp-unicast", 0, 0x4C58D101), ("dhcp-broadcast", 0x8000, 0x4C58D102)):
        a = c.attack(name, "DHCP offer", "works" if not flags else "lost")
        request = f.dhcp4(1, own.mac, number, flags, extra=b"\x37\x04\x01\x03\x06\x1a")
        offer = struct.pack("!BBBBI", 2, 1, 6, 0, number)
        a.twin("offer", "eve", offer, c.datagram(f.BROADCAST, "0.0.0.0", "255.255.255.255", 67, request, source_port=68))
        for place in ("near", "far", "tunnel"):
            a.forbidden.append({"at": place, "needle": struct.pack("!I", number).hex()})
    a = c.attack("dhcp6", "DHCPv6 advertisement", "works")
    body = f.dhcp6(1, own.mac, 0x4C58D6)
    a.twin("advertisement", "eve", b"\x02" + body[1:18], c.datagram("33:33:00:01:00:02", own.link_local, "ff02::1:2", 547, body, source_port=546))
    for place in ("near", "far", "tunnel"):
        a.forbidden.append({"at": place, "needle": body[1:8].hex()})


def neighbours(c):
    """Routers are found, and nobody's own address is denied to him."""
    own, near, gateway = c.own, c.near, c.gateway
    a = c.attack("ra", "router advertisement, to every local container", "works")
    # without an address, so that the answer is for everybody
    solicit = c.nd("33:33:00:00:00:02", "::", "ff02::2", 133, bytes(4))
    advert = f.six(gateway.link_local) + f.six("ff02::1") + b"\x86\0"
    for place in ("eve", "near"):
        a.twin(f"RA at {place}", place, advert, solicit)
    a.forbidden.append({"at": "tunnel", "needle": advert.hex()})
    a = c.attack("dad", "duplicate address detection finds no conflict", "works")
    group = f.solicited_node(own.ipv6)
    a.add(c.nd(f.group_mac(group), "::", group, 135, bytes(4) + f.six(own.ipv6)),
          f.ethernet(f.BROADCAST, own.mac, f.ARP, f.arp(1, own.mac, "0.0.0.0", "00:00:00:00:00:00", own.ipv4)))
    a.may = ("host", "near")
    for flags in (0x20, 0x40, 0x60, 0x80, 0xA0, 0xC0, 0xE0):
        a.forbidden.append({"at": "eve", "needle": (bytes([flags, 0, 0, 0]) + f.six(own.ipv6)).hex()})
    for mac in (own.mac, gateway.mac):
        a.forbidden.append({"at": "eve", "needle": (struct.pack("!H", 2) + f.mac(mac) + f.four(own.ipv4)).hex()})
    a = c.attack("arp-nd", "ARP and solicitations are answered", "works")
    c.arp_twin(a)
    c.ns_twin(a)
    group = f.solicited_node(near.ipv6)
    a.twin("NS answered", "eve", f.six(near.ipv6) + option(2, near.mac),
           c.nd(f.group_mac(group), own.ipv6, group, 135, bytes(4) + f.six(near.ipv6) + option(1, own.mac)))


def errors(c):
    """What routers and ends say of packets comes back."""
    own, gateway = c.own, c.gateway
    # A host speaks for itself with an address of its own: the gateway's is no source.
    to4, to6 = f.four(own.ipv4), f.six(own.ipv6)
    a = c.attack("traceroute", "time exceeded, both families", "works")
    for target, needle in (("203.0.113.99", to4 + b"\x0b\0"), ("2001:db8:b::99", to6 + b"\x03\0")):
        source = own.ipv6 if ":" in target else own.ipv4
        body = f.udp(source, target, 5400, 33434, b"traceroute")
        a.twin(f"hop to {target}", "eve", needle, c.packet(gateway.mac, source, target, f.UDP, body, hops=1))
    a = c.attack("path-mtu", "fragmentation needed, packet too big", "works")
    for source, target, needle in ((own.ipv4, STRANGER4, to4 + b"\x03\x04"), (own.ipv6, STRANGER6, to6 + b"\x02\0")):
        body = f.udp(source, target, 5400, OPEN_PORT, bytes(1350))
        packet = f.ipv6(source, target, f.UDP, body) if ":" in source else f.ipv4(source, target, f.UDP, body, fragment=0x4000)
        kind = f.IP6 if ":" in source else f.IP4
        a.twin(f"path MTU to {target}", "eve", needle, f.ethernet(gateway.mac, own.mac, kind, packet))
    a = c.attack("port-unreachable", "of an allowed port where nobody listens", "works")
    for victim in c.victims:
        a.talks += [[f"udp/53 to {target}", "c1", "udp", target, 53, 4, "refused"] for target in victim.addresses]


def conversations(c):
    """Services between containers, the host and strangers, and their denied twins."""
    a = c.attack("services", "allowed tcp, udp, sctp, and not the others", "works")
    a.may = ("near", "tunnel")
    for victim in c.victims:
        for target in victim.addresses:
            a.talks.append([f"tcp/80 to {target}", "c1", "tcp", target, 80, 0, "yes"])
            a.talks.append([f"udp to {target}", "c1", "udp", target, OPEN_PORT, 100, "yes"])
    a.talks.append(["a port nobody allowed", "c1", "udp", c.far.ipv6, CLOSED_PORT, 8, "no"])
    for source, target in zip(c.own.addresses, c.near.addresses):
        packet = f.sctp_init(5400, 5400)
        a.twin(f"sctp to {target}", "near", packet, c.packet(c.near.mac, source, target, f.SCTP, packet))
    a = c.attack("fragments", "datagrams of 4000 bytes", "works")
    for victim in c.victims:
        a.talks += [[f"4000 bytes to {target}", "c1", "udp", target, OPEN_PORT, 4000, "yes"] for target in victim.addresses]
    a = c.attack("large-packets", "4000 bytes by ping, and what the container's kernel cuts (UDP_SEGMENT)", "works")
    for victim in c.victims:
        for target in victim.addresses:
            a.talks.append([f"ping {target}", "c1", "ping", target, 0, 4000, "yes"])
            a.talks.append([f"segments to {target}", "c1", "segments", target, OPEN_PORT, 4000, "yes"])
    a = c.attack("host-to-container", "the host reaches what is allowed", "works")
    b = c.attack("stranger-to-container", "somebody outside reaches what is allowed, by the gateway", "works")
    for one, place in ((a, ""), (b, STRANGER)):
        for target in c.near.addresses:
            one.talks.append([f"ping {target}", place, "ping", target, 0, 56, "yes"])
            one.talks.append([f"udp to {target}", place, "udp", target, OPEN_PORT, 100, "yes"])
            one.talks.append([f"tcp/80 to {target}", place, "tcp", target, 80, 0, "yes"])
        one.talks.append(["a port nobody allowed", place, "udp", c.near.ipv4, CLOSED_PORT, 8, "no"])
    a = c.attack("container-to-stranger", "a container reaches somebody outside, in fragments too", "works")
    for target in (STRANGER4, STRANGER6):
        a.talks.append([f"ping {target}", "c1", "ping", target, 0, 56, "yes"])
        a.talks += [[f"{size} bytes to {target}", "c1", "udp", target, OPEN_PORT, size, "yes"] for size in (100, 3000)]


def fabric(c):
    """A host of the fabric begins, by its underlay address, and is answered; what the host file opens is reached."""
    own, gateway = c.own, c.gateway
    a = c.attack("fabric-to-container", "a host of the fabric reaches what is allowed, by its underlay address", "works")
    target = f"{c.near.ipv4} from {c.underlay}"
    a.talks.append([f"ping {target}", "", "ping", target, 0, 56, "yes"])
    a.talks.append([f"udp to {target}", "", "udp", target, OPEN_PORT, 100, "yes"])
    a.talks.append([f"tcp/80 to {target}", "", "tcp", target, 80, 0, "yes"])
    a = c.attack("fabric-service", "what the host file opens at hosts of the fabric; nobody listens there", "works")
    a.may = ("host",)
    refused = f.four(own.ipv4) + b"\x03\x03"
    a.twin("refused", "eve", refused, c.datagram(gateway.mac, own.ipv4, c.underlay, fleet.LISTED_PORT, b"fabric service"))
