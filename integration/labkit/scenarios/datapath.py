"""A few of the attacks that the data path has to stop, sent as raw frames from a container."""

import json
import struct

from labkit import fleet
from labkit.scenarios import state
from labkit.scenarios.registry import check, scenario
from labkit.scenarios.scene import TOOL, until_ready
from labkit.scenarios.tool import arp, echo4, ethernet, icmp6, ipv4, ipv6, udp

_PREFIX = "LXMESHLAB"
_HOST_PORT = 5999
_IP4, _ARP, _IP6, _VLAN = 0x0800, 0x0806, 0x86DD, 0x8100
_BROADCAST = "ff:ff:ff:ff:ff:ff"
_ALL_NODES_MAC = "33:33:00:00:00:01"


def _marker(number):
    return f"{_PREFIX}{number:02d}".encode().ljust(14, b".")


def _frames(own, near, far, gateway_mac, underlay):
    """{number: (what it is, frames)}; own, near, far are NICs: the attacker, its victims."""
    gateway_ll = state.link_local_of(gateway_mac)

    def echo(number, source_mac, source, target):
        packet = ipv4(source, target.ipv4, 1, echo4(_marker(number)))
        return ethernet(target.mac, source_mac, _IP4, packet)

    def echo6(number, source_mac, source, target):
        body = struct.pack("!HH", 4242, 1) + _marker(number)
        return ethernet(target.mac, source_mac, _IP6, ipv6(source, target.ipv6, 58, icmp6(source, target.ipv6, 128, body)))

    def nd(number, target_mac, target, kind, body):
        # the marker in an option of an experimental type (RFC 4727)
        body += bytes([253, 2]) + _marker(number)
        packet = icmp6(own.link_local, target, kind, body)
        return ethernet(target_mac, own.mac, _IP6, ipv6(own.link_local, target, 58, packet, hops=255))

    def address(text):
        return ipv6(text, "::", 0, b"")[8:24]

    advert = struct.pack("!BBHII", 64, 0, 1800, 0, 0)
    offer = udp(67, 68, b"\x02\x01\x06\x00".ljust(240, b"\0") + _marker(10))
    smuggled = udp(5300, _HOST_PORT, _marker(11))
    tagged = struct.pack("!HH", 5, _IP4) + ipv4(own.ipv4, near.ipv4, 1, echo4(_marker(12)))
    return {
        0: ("control: what is allowed", [echo(0, own.mac, own.ipv4, near), echo(0, own.mac, own.ipv4, far),
                                         echo6(0, own.mac, own.ipv6, near), echo6(0, own.mac, own.ipv6, far)]),
        1: ("another container's IPv4 source", [echo(1, own.mac, far.ipv4, near), echo(1, own.mac, near.ipv4, far)]),
        2: ("another container's IPv6 source", [echo6(2, own.mac, far.ipv6, near), echo6(2, own.mac, near.ipv6, far)]),
        3: ("another container's MAC", [echo(3, far.mac, own.ipv4, near), echo(3, near.mac, own.ipv4, far)]),
        4: ("the gateway's MAC", [echo(4, gateway_mac, own.ipv4, near), echo(4, gateway_mac, fleet.GATEWAY4, far)]),
        5: ("gratuitous ARP for the gateway", [
            ethernet(target, own.mac, _ARP, arp(operation, own.mac, fleet.GATEWAY4, _BROADCAST, fleet.GATEWAY4, _marker(5)))
            for target in (_BROADCAST, near.mac, far.mac) for operation in (1, 2)
        ]),
        6: ("ARP reply for another container", [
            ethernet(near.mac, own.mac, _ARP, arp(2, own.mac, far.ipv4, near.mac, near.ipv4, _marker(6))),
            ethernet(far.mac, own.mac, _ARP, arp(2, own.mac, near.ipv4, far.mac, far.ipv4, _marker(6))),
        ]),
        7: ("rogue router advertisement", [
            nd(7, _ALL_NODES_MAC, "ff02::1", 134, advert), nd(7, near.mac, near.link_local, 134, advert),
            nd(7, far.mac, far.link_local, 134, advert),
        ]),
        8: ("neighbour advertisement for the gateway", [
            nd(8, mac, target, 136, struct.pack("!I", 0x60000000) + address(gateway_ll))
            for mac, target in ((_ALL_NODES_MAC, "ff02::1"), (near.mac, near.link_local), (far.mac, far.link_local))
        ]),
        9: ("ICMPv6 redirect", [
            nd(9, victim.mac, victim.link_local, 137, bytes(4) + address(own.link_local) + address("2001:db8:1::1"))
            for victim in (near, far)
        ]),
        10: ("rogue DHCP offer", [
            ethernet(mac, own.mac, _IP4, ipv4(own.ipv4, target, 17, offer))
            for mac, target in ((near.mac, near.ipv4), (far.mac, far.ipv4), (_BROADCAST, "255.255.255.255"))
        ]),
        11: ("IP to a link-local bridge MAC", [
            ethernet(f"01:80:c2:00:00:{last:02x}", own.mac, _IP4, ipv4(source, target, 17, smuggled))
            for last in (0x00, 0x03, 0x0E) for source in (own.ipv4, far.ipv4) for target in (fleet.GATEWAY4, underlay)
        ]),
        12: ("VLAN-tagged", [ethernet(near.mac, own.mac, _VLAN, tagged)]),
        13: ("a service that is not listed", [
            ethernet(victim.mac, own.mac, _IP4, ipv4(own.ipv4, victim.ipv4, 17, udp(5300, 5301, _marker(13))))
            for victim in (near, far)
        ]),
    }


@scenario("attacks")
def attacks(scene):
    """spoofed and rogue frames from inside a container arrive nowhere, and the counters say so"""
    own, near, far = scene.c1.nic(), scene.extra.nic(), scene.c2.nic()
    host = scene.c1.host
    before = state.read(host)
    gateway_mac = before.links[state.SVI]["address"]
    attempts = _frames(own, near, far, gateway_mac, host.address)
    sniff = ["python3", TOOL, "sniff", "eth0", _PREFIX]
    with until_ready(scene.extra.place.net, sniff) as at_near, until_ready(scene.c2.place.net, sniff) as at_far, \
            until_ready(host, ["python3", TOOL, "listen", _HOST_PORT]) as at_host:
        frames = [frame.hex() for _, each in attempts.values() for frame in each]
        sent = scene.c1.place.net.run(["python3", TOOL, "send", "eth0"], input="\n".join(frames)).stdout
        near_saw, far_saw, host_saw = (json.loads(place.stop().splitlines()[-1]) for place in (at_near, at_far, at_host))
    after = state.read(host)
    control = _marker(0)[:len(_PREFIX) + 2].decode()
    for who, saw in (("same host", near_saw), ("other host", far_saw)):
        check(saw.pop(control, 0) > 0, f"{who}: not even the allowed frames arrived, so this shows nothing")
        arrived = [attempts[int(marker[-2:])][0] for marker in saw]
        check(not arrived, f"{who}: arrived: {', '.join(arrived)}")
    check(host_saw == {"datagrams": 0}, f"the host's socket got {host_saw}")
    rose = {name: after.counters[name] - before.counters.get(name, 0) for name in after.counters}
    scene.note(f"{json.loads(sent)['sent']} frames; counters: " + ", ".join(f"{k} +{v}" for k, v in sorted(rose.items()) if v))
    for name in ("spoofed_source", "out_denied", "past_the_bridge"):
        check(rose.get(name, 0) > 0, f"counter {name} did not rise: {rose}")
    scene.reaches(scene.extra, scene.c2.ipv4, scene.c2.ipv6, fleet.GATEWAY4)
