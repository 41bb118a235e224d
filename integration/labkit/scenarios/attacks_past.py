"""Attacks by what the rules let pass for a reason: ARP that a bridge gives to the port's own stack, DHCP."""

import struct

from labkit.scenarios import frames as f
from labkit.scenarios.attacks import End

# The bridge gives these to the port itself, past its first hooks, the last one past all of them.
LINK_LOCAL = ("01:80:c2:00:00:00", "01:80:c2:00:00:03", "01:80:c2:00:00:0e")
NOBODYS_MAC = "00:00:00:00:00:00"
OUTSIDE4, OUTSIDE6 = "198.51.100.77", "2001:db8:77::1"


def arp(c, port):
    """The host's own stack behind the port `port` must not hear them, answer them, or remember who asks."""
    own, gateway = c.own, c.gateway
    a = c.attack("arp-past-bridge", "ARP to link-local MACs of bridges, which reaches the port's own stack", "succeeded",
                 "arp_past_the_bridge", measure={"neighbours": f"ip neigh show dev {port} nud all | wc -l"}, judge=_none_remembered)
    for group in LINK_LOCAL:
        for target in (gateway.ipv4, c.underlay, "169.254.0.1"):
            for source in (own.ipv4, c.near.ipv4, gateway.ipv4, "0.0.0.0"):
                request = f.arp(1, own.mac, source, NOBODYS_MAC, target, a.mark)
                a.add(f.ethernet(group, own.mac, f.ARP, request))
        reply = f.arp(2, own.mac, c.near.ipv4, gateway.mac, gateway.ipv4, a.mark)
        a.add(f.ethernet(group, own.mac, f.ARP, reply),
              f.ethernet(group, own.mac, f.VLAN, struct.pack("!HH", 0x2000, f.ARP) + reply),
              f.ethernet(group, own.mac, f.VLAN, struct.pack("!HH", 0x2000, f.ARP) + f.arp(1, own.mac, own.ipv4, NOBODYS_MAC, gateway.ipv4)))
    for target in (gateway.ipv4, c.underlay):
        request = f.ethernet(LINK_LOCAL[-1], own.mac, f.ARP, f.arp(1, own.mac, "10.77.0.0", NOBODYS_MAC, target))
        a.floods.append({"frame": request, "offset": 14 + 16, "count": 2000})
    answer = struct.pack("!H", 2) + f.mac(gateway.mac)
    a.forbidden.append({"at": "eve", "needle": (answer + f.four(c.underlay)).hex()})
    c.arp_twin(a)


def _none_remembered(result):
    count = result["measured"]["neighbours"]
    return f"{count} neighbours more at the port" if count else None


def dhcp(c):
    """What looks like a client's request, and leaves; what looks like the host's answer, and is none."""
    own, near, far, gateway = c.own, c.near, c.far, c.gateway
    request = f.dhcp4(1, own.mac, 0x4C58E0)
    a = c.attack("dhcp-to-others", "a client's requests to whom is not the network's own gateway", "succeeded", "dhcp_denied")
    others4 = (near.ipv4, far.ipv4, OUTSIDE4, c.underlay, c.far_underlay, "203.0.113.1", "224.0.0.1", "192.0.2.255")
    for target in others4:
        for source in (own.ipv4, "0.0.0.0"):
            a.add(c.datagram(gateway.mac, source, target, 67, request + a.mark, source_port=68))
        a.add(c.datagram(gateway.mac, own.ipv4, target, 67, request + a.mark + bytes(900), source_port=68))
    for mac in (near.mac, far.mac, f.BROADCAST):
        for target in (near.ipv4, OUTSIDE4, "255.255.255.255"):
            if (mac, target) != (f.BROADCAST, "255.255.255.255"):
                a.add(c.datagram(mac, "0.0.0.0", target, 67, request + a.mark, source_port=68))
    others6 = (near.ipv6, far.ipv6, near.link_local, OUTSIDE6, "2001:db8:b::1", "ff02::1", "ff05::1:3")
    for target in others6:
        for source in (own.ipv6, own.link_local):
            a.add(c.datagram(gateway.mac, source, target, 547, bytes([1, 1, 2, 3]) + a.mark, source_port=546))
            # the ports of one family in the other one
            a.add(c.datagram(gateway.mac, source, target, 67, request + a.mark, source_port=68))
    for target in others4:
        a.add(c.datagram(gateway.mac, own.ipv4, target, 547, bytes([1, 1, 2, 3]) + a.mark, source_port=546))
    # After these the host has just answered from its own addresses: what follows must not pass as what comes back.
    solicit = f.dhcp6(1, own.mac, 0x4C58E4)
    a.twin("an offer", "eve", struct.pack("!BBBBI", 2, 1, 6, 0, 0x4C58E5), c.datagram(
        f.BROADCAST, "0.0.0.0", "255.255.255.255", 67, f.dhcp4(1, own.mac, 0x4C58E5), source_port=68))
    a.twin("an advertisement", "eve", b"\x02" + solicit[1:18],
           c.datagram("33:33:00:01:00:02", own.link_local, "ff02::1:2", 547, solicit, source_port=546))
    a = c.attack("dhcp-as-answer", "requests in another's name to the address that has just offered", "succeeded", "dhcp_denied")
    for kind in (3, 4, 7):
        for source in (c.underlay, gateway.ipv4, "203.0.113.1"):
            message = f.dhcp4(kind, near.mac, 0x4C58E6) + a.mark
            a.add(c.datagram(gateway.mac, own.ipv4, source, 67, message, source_port=68))
    for kind in (1, 3, 5, 6, 8, 9, 12):
        for target in (gateway.link_local, gateway.ipv6):
            if kind in (6, 12) or target == gateway.link_local:
                a.add(c.datagram(gateway.mac, own.link_local, target, 547, f.dhcp6(kind, near.mac, 0x4C58E7) + a.mark, source_port=546))
    a = c.attack("dhcp6-kinds", "DHCPv6 messages that are no client's, and REBIND of another's address", "succeeded", "dhcp_denied")
    for kind in (2, 6, 7, 10, 12, 13, 14, 22, 36, 0, 255):
        address = struct.pack("!HH", 5, 24) + f.six(near.ipv6) + struct.pack("!II", 3600, 3600)
        body = bytes([kind, 1, 2, 3]) + struct.pack("!HHIII", 3, 12 + len(address), 1, 0, 0) + address
        for target_mac, target in (("33:33:00:01:00:02", "ff02::1:2"), (gateway.mac, "ff02::1:2"), (gateway.mac, gateway.ipv6)):
            a.add(c.datagram(target_mac, own.link_local, target, 547, body + a.mark, source_port=546))
    a = c.attack("dhcp-server-ports", "a server's ports as a source, also by way of the gateway, also to an allowed port", "succeeded",
                 "dhcp_denied")
    offer = f.dhcp4(2, near.mac, 0x4C58E1, reply=True)
    for victim in c.victims:
        message = f.dhcp4(2, victim.mac, 0x4C58E1, reply=True) + a.mark
        for mac in (victim.mac, gateway.mac):
            for port in (68, 53):
                a.add(c.datagram(mac, own.ipv4, victim.ipv4, port, message, source_port=67))
                a.add(c.datagram(mac, own.ipv6, victim.ipv6, port, message, source_port=67))
            for port in (546, 53):
                a.add(c.datagram(mac, own.ipv6, victim.ipv6, port, bytes([2, 1, 2, 3]) + a.mark, source_port=547))
            a.add(c.datagram(mac, own.link_local, victim.link_local, 546, bytes([2, 1, 2, 3]) + a.mark, source_port=547))
    a.add(c.datagram(gateway.mac, own.ipv4, gateway.ipv4, 68, offer + a.mark, source_port=67))
    renewal = f.dhcp4(8, own.mac, 0x4C58E2)
    a.twin("own DHCP to the gateway", "host", renewal[:44], c.datagram(gateway.mac, own.ipv4, gateway.ipv4, 67, renewal, source_port=68))


def from_outside(c, mac):
    """By somebody who is routed to near: all of it goes to the host's `mac`."""
    own, near = c.own, c.near
    a = c.attack("dhcp-routed", "a DHCP server's answers by somebody who is routed here", "succeeded", "routed_dhcp")
    offer = f.dhcp4(2, near.mac, 0x4C58E3, reply=True) + a.mark
    ack = f.dhcp4(5, near.mac, 0x4C58E3, reply=True) + a.mark
    for source in (own.ipv4, c.gateway.ipv4):
        a.add(*(c.datagram(mac, source, near.ipv4, 68, message, source_port=67) for message in (offer, ack)))
    a.add(*(c.datagram(mac, own.ipv6, near.ipv6, 546, bytes([kind, 1, 2, 3]) + a.mark, source_port=547) for kind in (2, 7)))
    # Of the usual ones, those to whom it is routed.
    a.twins = [twin for twin in a.twins if twin["name"].startswith("ping near")]
    return a


def behind(end, mac):
    """The same addresses by way of a router."""
    return End(mac, end.ipv4, end.ipv6, end.link_local)
