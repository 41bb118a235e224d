"""Attacks by what is inside of IP, by other protocols, on the host and on its tables."""

import struct

from labkit.scenarios import frames as f
from labkit.scenarios.attacks import (
    ABSENT4, ABSENT6, CLOSED_PORT, FLOW_PORT, HOST_PORT, ONE_WAY_PORT, OPEN_PORT,
)

_NO_MAC = "02:00:00:00:00:99"


def icmp(c):
    """Redirects, errors about others' flows, and whatever else ICMP has."""
    own, near, far, gateway = c.own, c.near, c.far, c.gateway

    def quote(source, target, mark, ports):
        """A packet of the flow between near and far, as an error quotes it."""
        return f.ip(source, target, f.UDP, f.udp(source, target, *ports, mark))[1]

    def quotes(mark, family):
        """(victim, packet that the victim sent) in the live flow."""
        ends = near.addresses[family], far.addresses[family]
        return ((near, quote(*ends, mark, (FLOW_PORT, OPEN_PORT))), (far, quote(*reversed(ends), mark, (OPEN_PORT, FLOW_PORT))))

    a = c.attack("redirect4", "ICMP redirect about no flow", "stopped", "out_denied")
    for victim in c.victims:
        body = f.four(own.ipv4) + quote(victim.ipv4, "203.0.113.77", a.mark, (4000, 4001))
        a.add(c.packet(victim.mac, own.ipv4, victim.ipv4, f.ICMP, f.icmp(5, 1, body)))
    a = c.attack("redirect4-related", "ICMP redirect about a live flow, as oneself and as the gateway", "succeeded",
                 "out_denied", "spoofed_source")
    for victim, packet in quotes(a.mark, 0):
        for source in (own.ipv4, gateway.ipv4):
            a.add(c.packet(victim.mac, source, victim.ipv4, f.ICMP, f.icmp(5, 1, f.four(own.ipv4) + packet)))
    errors4 = ((3, 4), (3, 3), (3, 1), (11, 0), (12, 0))
    errors6 = ((2, 0), (1, 4), (1, 0), (3, 0), (4, 1))
    for name, spoofed, counter in (("icmp-error-4", False, "icmp_error_denied"), ("icmp-error-4-spoof", True, "spoofed_source")):
        a = c.attack(name, "forged ICMP errors about others' live flow" + (", as its other end" if spoofed else ""),
                     "succeeded", counter)
        for victim, packet in quotes(a.mark, 0):
            source = (far if victim is near else near).ipv4 if spoofed else own.ipv4
            for kind, code in errors4:
                body = struct.pack("!HH", 0, 600) + packet
                a.add(c.packet(victim.mac, source, victim.ipv4, f.ICMP, f.icmp(kind, code, body)))
    a = c.attack("icmp-error-6", "forged ICMPv6 errors about others' live flow", "succeeded", "icmp_error_denied")
    for victim, packet in quotes(a.mark, 1):
        for kind, code in errors6:
            a.add(c.packet(victim.mac, own.ipv6, victim.ipv6, f.ICMP6,
                           f.icmp6(own.ipv6, victim.ipv6, kind, struct.pack("!I", 1280) + packet, code)))
    a = c.attack("icmp-error-unrelated", "ICMP errors about no flow at all", "stopped", "out_denied")
    for victim in c.victims:
        packet4 = quote(victim.ipv4, own.ipv4, a.mark, (4000, 4001))
        packet6 = quote(victim.ipv6, own.ipv6, a.mark, (4000, 4001))
        for (kind4, code4), (kind6, code6) in zip(errors4, errors6):
            a.add(c.packet(victim.mac, own.ipv4, victim.ipv4, f.ICMP, f.icmp(kind4, code4, bytes(4) + packet4)))
            body = f.icmp6(own.ipv6, victim.ipv6, kind6, struct.pack("!I", 1280) + packet6, code6)
            a.add(c.packet(victim.mac, own.ipv6, victim.ipv6, f.ICMP6, body))
    a = c.attack("icmp-other", "other ICMP: unsolicited replies, timestamps, routers, node information, MLD done",
                 "stopped", "out_denied")
    for victim in c.victims:
        for kind in (0, 9, 10, 13, 14, 15, 17, 18, 30, 37, 40):
            a.add(c.packet(victim.mac, own.ipv4, victim.ipv4, f.ICMP, f.icmp(kind, 0, struct.pack("!HH", 77, kind) + a.mark)))
        for kind in (129, 131, 132, 138, 139, 140, 141, 142, 144, 146, 151, 153, 155, 160):
            body = struct.pack("!HH", 77, kind) + a.mark
            a.add(c.packet(victim.mac, own.ipv6, victim.ipv6, f.ICMP6, f.icmp6(own.ipv6, victim.ipv6, kind, body)))


def control(c):
    """DHCP, multicast control, and what switches say to one another."""
    own, near, far, gateway = c.own, c.near, c.far, c.gateway
    dhcp_mac, dhcp_group = "33:33:00:01:00:02", "ff02::1:2"

    a = c.attack("dhcp4-rogue", "DHCP offers and acknowledgements of one's own", "stopped", "dhcp_denied")
    for kind in (2, 5):
        message = f.dhcp4(kind, near.mac, 0x4C58, reply=True) + a.mark
        for mac, target in ((near.mac, near.ipv4), (far.mac, far.ipv4), (f.BROADCAST, "255.255.255.255")):
            a.add(c.datagram(mac, own.ipv4, target, 68, message, source_port=67))
    a = c.attack("dhcp6-rogue", "the same for DHCPv6", "stopped", "dhcp_denied")
    for kind in (2, 7):
        for victim in c.victims:
            for target in (victim.ipv6, victim.link_local):
                source = own.link_local if target == victim.link_local else own.ipv6
                a.add(c.datagram(victim.mac, source, target, 546, bytes([kind, 1, 2, 3]) + a.mark, source_port=547))
    a = c.attack("dhcp-client-leak", "own DHCP requests reach others", "stopped", "out_denied", may=("host",))
    message = f.dhcp4(1, own.mac, 0x4C58A001) + a.mark
    for mac, source, target in ((f.BROADCAST, "0.0.0.0", "255.255.255.255"), (f.BROADCAST, own.ipv4, "255.255.255.255"),
                                (near.mac, own.ipv4, near.ipv4), (far.mac, own.ipv4, far.ipv4)):
        a.add(c.datagram(mac, source, target, 67, message, source_port=68))
    for mac, target in ((dhcp_mac, dhcp_group), (near.mac, near.link_local), (far.mac, far.link_local)):
        a.add(c.datagram(mac, own.link_local, target, 547, bytes([1, 1, 2, 3]) + a.mark, source_port=546))
    a = c.attack("dhcp-chaddr", "RELEASE and DECLINE of another's lease", "succeeded", "dhcp_denied")
    for kind in (7, 4):
        for hardware, relay in ((near.mac, "0.0.0.0"), (own.mac, near.ipv4), (near.mac, own.ipv4)):
            message = f.dhcp4(kind, hardware, 0x4C58, relay=relay) + a.mark
            a.add(c.datagram(gateway.mac, own.ipv4, gateway.ipv4, 67, message, source_port=68))
            a.add(c.datagram(f.BROADCAST, own.ipv4, "255.255.255.255", 67, message, source_port=68))
    inform = f.dhcp4(8, own.mac, 0x4C58B002)
    a.twin("own DHCP to the host", "host", inform[:44], c.datagram(gateway.mac, own.ipv4, gateway.ipv4, 67, inform, source_port=68))

    a = c.attack("igmp-mld-query", "IGMP and MLD queries", "stopped", "group_denied", "ip_options_denied", "nd_denied")
    query = struct.pack("!BBH4s", 0x11, 10, 0, bytes(4))
    query = query[:2] + struct.pack("!H", f.checksum(query)) + query[4:] + a.mark
    for mac, target in (("01:00:5e:00:00:01", "224.0.0.1"), (near.mac, "224.0.0.1"), (gateway.mac, gateway.ipv4)):
        for options in (b"", b"\x94\x04\0\0"):
            a.add(f.ethernet(mac, own.mac, f.IP4, f.ipv4(own.ipv4, target, f.IGMP, query, hops=1, options=options)))
    for mac, target in ((f.ALL_NODES_MAC, "ff02::1"), (near.mac, near.link_local)):
        inner = f.icmp6(own.link_local, target, 130, struct.pack("!HH", 1000, 0) + bytes(16) + a.mark)
        a.add(c.packet(mac, own.link_local, target, f.ICMP6, inner, hops=1))
        a.add(c.packet(mac, own.link_local, target, 0, f.extension(0, f.ICMP6, b"\x05\x02\0\0\x01\0")[1] + inner, hops=1))
    a = c.attack("mld-join-flood", "joins of thousands of groups", "succeeded", "mld_ignored", "group_denied",
                 measure={"groups": "bridge mdb show br svi-vpc | wc -l"},
                 judge=lambda result: f"{result['measured']['groups']} groups more" if result["measured"]["groups"] > 0 else None)
    for block in range(8):
        records = b"".join(struct.pack("!BBH", 4, 0, 0) + f.six(f"ff1e::{block:x}:{one:x}") for one in range(60))
        inner = f.icmp6(own.link_local, "ff02::16", 143, struct.pack("!HH", 0, 60) + records)
        a.add(c.packet("33:33:00:00:00:16", own.link_local, "ff02::16", 0, f.extension(0, f.ICMP6, b"\x05\x02\0\0\x01\0")[1] + inner, hops=1))
        records = b"".join(struct.pack("!BBH4s", 4, 0, 0, bytes([239, 9, block, one])) for one in range(100))
        report = struct.pack("!BBHHH", 0x22, 0, 0, 0, 100) + records
        report = report[:2] + struct.pack("!H", f.checksum(report)) + report[4:]
        a.add(c.packet("01:00:5e:00:00:16", own.ipv4, "224.0.0.22", f.IGMP, report, hops=1))
    a = c.attack("stp-lldp", "BPDUs, LLDP, pause, CDP and their like", "stopped", "ethertype_denied", "link_local_mac")
    bpdu = b"\x42\x42\x03\0\0\0\0\0" + a.mark.ljust(35, b"\0")
    for last in (0x00, 0x02, 0x03, 0x0E):
        group = f"01:80:c2:00:00:{last:02x}"
        a.add(f.ethernet(group, own.mac, len(bpdu), bpdu), f.ethernet(group, own.mac, 0x88CC, a.mark),
              f.ethernet(group, own.mac, 0x888E, a.mark))
    a.add(f.ethernet("01:80:c2:00:00:01", own.mac, 0x8808, b"\0\x01" + a.mark),
          f.ethernet("01:00:0c:cc:cc:cc", own.mac, 30, b"\xaa\xaa\x03\0\0\x0c\x20\0" + a.mark),
          f.ethernet("01:80:c2:00:00:21", own.mac, 0x88F5, a.mark))


def tags_and_types(c):
    own, near, far, gateway = c.own, c.near, c.far, c.gateway

    def tagged(attack, frame):
        """The frame with a priority tag, a VLAN tag, one of a provider, and two."""
        rest = frame[12:]
        for tag in (struct.pack("!HH", f.VLAN, 0x2000), struct.pack("!HH", f.VLAN, 5), struct.pack("!HH", f.QINQ, 5),
                    struct.pack("!HHHH", f.QINQ, 5, f.VLAN, 6)):
            attack.add(frame[:12] + tag + rest)

    a = c.attack("vlan-spoof", "tagged, with another's address", "stopped", "ethertype_denied")
    for victim, thief in ((near, far), (far, near)):
        for source, target in zip(thief.addresses, victim.addresses):
            tagged(a, c.datagram(victim.mac, source, target, OPEN_PORT, a.mark))
    a = c.attack("vlan-own", "tagged, with the own address", "succeeded", "ethertype_denied")
    for victim in c.victims:
        for source, target in zip(own.addresses, victim.addresses):
            tagged(a, c.datagram(victim.mac, source, target, OPEN_PORT, a.mark))
    a = c.attack("vlan-arp-nd", "tagged ARP replies, NA and RA", "stopped", "ethertype_denied")
    for victim, thief in ((near, far), (far, near)):
        tagged(a, f.ethernet(victim.mac, own.mac, f.ARP, f.arp(2, own.mac, thief.ipv4, victim.mac, victim.ipv4, a.mark)))
        for kind, body in ((136, struct.pack("!I", 0x60000000) + f.six(thief.ipv6)), (134, struct.pack("!BBHII", 64, 0, 1800, 0, 0))):
            tagged(a, c.nd(victim.mac, own.link_local, victim.link_local, kind, body + bytes([253, 3]) + a.mark.ljust(22, b".")))
    a = c.attack("ethertypes", "other ethertypes, LLC and SNAP, with IP inside", "stopped", "ethertype_denied")
    for victim in c.victims:
        packet = c.datagram(victim.mac, own.ipv4, victim.ipv4, OPEN_PORT, a.mark)[14:]
        for kind in (0x88B5, 0x8847, 0x8848, 0x888E, 0x22F3, 0x9000, 0x8035, 0x88E5, 0x0805, 0x80F3, 0x8137, 0x894F):
            a.add(f.ethernet(victim.mac, own.mac, kind, packet))
        a.add(f.ethernet(victim.mac, own.mac, 0x8864, b"\x11\0\0\x01" + struct.pack("!HH", len(packet) + 2, 0x21) + packet))
        a.add(f.ethernet(victim.mac, own.mac, len(packet) + 8, b"\xaa\xaa\x03\0\0\0\x08\0" + packet))


def services(c):
    """Ports that nobody allowed, and ways around asking for them."""
    own, near, far = c.own, c.near, c.far
    a = c.attack("denied-ports", "services not allowed, out or in; other protocols; reverse segments", "stopped",
                 "out_denied", "in_denied", may=("tunnel",))
    for victim in c.victims:
        for source, target in zip(own.addresses, victim.addresses):
            a.add(c.datagram(victim.mac, source, target, CLOSED_PORT, a.mark), c.datagram(victim.mac, source, target, ONE_WAY_PORT, a.mark))
            for flags, ports in ((2, (5400, 22)), (16, (5400, 22)), (18, (80, 5400)), (16, (80, 5400)), (17, (80, 5400)), (4, (5400, 443))):
                a.add(c.packet(victim.mac, source, target, f.TCP, f.tcp(source, target, *ports, flags, a.mark)))
            a.add(c.packet(victim.mac, source, target, f.SCTP, f.sctp_init(5400, 5401)))
            for protocol in (4, 41, 47, 50, 89, 103, 112, 136, 253):
                a.add(c.packet(victim.mac, source, target, protocol, a.mark + a.mark))
        for source, target in zip(own.addresses, victim.addresses):
            said = a.mark.lower()
            a.twin(f"udp/{OPEN_PORT} to {target}", "eve", said, c.datagram(victim.mac, source, target, OPEN_PORT, said))
            a.talks.append([f"tcp/80 to {target}", "c1", "tcp", target, 80, 0, "yes"])
    for source, target in zip(own.addresses, near.addresses):
        chunk = f.sctp_init(5400, 5400)
        a.twin(f"sctp/5400 to {target}", "near", chunk, c.packet(near.mac, source, target, f.SCTP, chunk))

    a = c.attack("ip6-ext", "IPv6 extension headers before what is denied or spoofed", "succeeded",
                 "extension_header_denied", "spoofed_source")
    for victim, thief in ((near, far), (far, near)):
        for source, port in ((own.ipv6, CLOSED_PORT), (own.ipv6, OPEN_PORT), (thief.ipv6, OPEN_PORT)):
            inner = f.udp(source, victim.ipv6, 5400, port, a.mark)
            for header in (0, 43, 51, 60, 135, 139, 140):
                a.add(c.packet(victim.mac, source, victim.ipv6, header, f.extension(header, f.UDP)[1] + inner))
            nested = f.extension(0, 43)[1] + f.extension(43, 60)[1] + f.extension(60, f.UDP)[1]
            a.add(c.packet(victim.mac, source, victim.ipv6, 0, nested + inner))
    a = c.attack("ip6-frag", "IPv6 fragments: a denied port split, tiny, overlapping, hidden options", "stopped", "out_denied")
    for victim, thief in ((near, far), (far, near)):
        denied = f.udp(own.ipv6, victim.ipv6, 5400, CLOSED_PORT, a.mark * 80)
        stolen = f.udp(thief.ipv6, victim.ipv6, 5400, OPEN_PORT, a.mark * 80)
        # what may arrive, and does where it is not what is replaced
        fine = f.udp(own.ipv6, victim.ipv6, 5400, OPEN_PORT, a.mark.lower() * 80)

        def fragment(offset, more, number, data, following=f.UDP, source=own.ipv6, victim=victim):
            return c.packet(victim.mac, source, victim.ipv6, 44, f.fragment6(following, offset, more, number, data))

        for cut, number in ((8, 1), (16, 2), (1240, 3)):
            a.add(fragment(0, 1, number, denied[:cut]), fragment(cut, 0, number, denied[cut:]))
        a.add(fragment(0, 1, 4, fine[:1240]), fragment(0, 1, 4, denied[:1240]), fragment(1232, 0, 4, denied[1232:]))
        a.add(fragment(8, 0, 5, denied[8:1200]), fragment(8, 1, 6, denied[8:1200]))
        options = f.extension(60, f.UDP)[1]
        a.add(fragment(0, 1, 7, options, 60), fragment(8, 0, 7, denied[:1200], 60))
        a.add(fragment(0, 1, 8, stolen[:1240], source=thief.ipv6), fragment(1240, 0, 8, stolen[1240:], source=thief.ipv6))
        a.talks.append([f"fragments to {victim.ipv6}", "c1", "udp", victim.ipv6, OPEN_PORT, 4000, "yes"])
    a = c.attack("ip4-frag", "IPv4 fragments: the same, and a first fragment replaced", "stopped", "out_denied", "spoofed_source")
    for victim, thief in ((near, far), (far, near)):
        denied = f.udp(own.ipv4, victim.ipv4, 5400, CLOSED_PORT, a.mark * 80)
        stolen = f.udp(thief.ipv4, victim.ipv4, 5400, OPEN_PORT, a.mark * 80)
        # what may arrive, and does where it is not what is replaced
        fine = f.udp(own.ipv4, victim.ipv4, 5400, OPEN_PORT, a.mark.lower() * 80)

        def fragment4(offset, more, number, data, source=own.ipv4, victim=victim):
            packet = f.ipv4(source, victim.ipv4, f.UDP, data, number=number, fragment=offset // 8 | more << 13)
            return f.ethernet(victim.mac, own.mac, f.IP4, packet)

        for cut, number in ((8, 101), (16, 102), (1240, 103)):
            a.add(fragment4(0, 1, number, denied[:cut]), fragment4(cut, 0, number, denied[cut:]))
        a.add(fragment4(0, 1, 104, fine[:1240]), fragment4(0, 1, 104, denied[:1240]), fragment4(1240, 0, 104, fine[1240:]))
        a.add(fragment4(8, 0, 105, denied[8:1200]), fragment4(8, 1, 106, denied[8:1200]))
        a.add(fragment4(0, 1, 107, fine[:24]), fragment4(8, 0, 107, denied[8:1200]))
        a.add(fragment4(0, 1, 108, stolen[:1240], thief.ipv4), fragment4(1240, 0, 108, stolen[1240:], thief.ipv4))
        a.talks.append([f"fragments to {victim.ipv4}", "c1", "udp", victim.ipv4, OPEN_PORT, 4000, "yes"])
    a = c.attack("ip4-options", "source routes, record route, router alert", "succeeded", "ip_options_denied")
    for victim in (near, far, c.gateway):
        body = f.udp(own.ipv4, victim.ipv4, 5400, OPEN_PORT, a.mark)
        for options in (b"\x83\x07\x04" + f.four(far.ipv4), b"\x89\x07\x04" + f.four(far.ipv4), b"\x07\x07\x04" + bytes(4), b"\x94\x04\0\0", b"\x01\x01\x01\0"):
            packet = f.ipv4(own.ipv4, victim.ipv4, f.UDP, body, options=options.ljust(8 if len(options) > 4 else 4, b"\0"))
            a.add(f.ethernet(victim.mac, own.mac, f.IP4, packet))
    a = c.attack("udp-reflect", "as if answering a flow that never was", "stopped", "out_denied")
    for victim in c.victims:
        for source, target in zip(own.addresses, victim.addresses):
            a.add(c.datagram(victim.mac, source, target, 40000, a.mark, source_port=OPEN_PORT))


def destinations(c):
    """Wrong, many or no destinations; the host and its sockets."""
    own, near, far, gateway = c.own, c.near, c.far, c.gateway
    a = c.attack("weak-host", "to a container's MAC, but not its address", "succeeded", "in_denied", may=("tunnel",))
    for victim, other in ((near, far), (far, near)):
        for target in (other.ipv4, gateway.ipv4, "127.0.0.1", "10.9.9.9", other.ipv6, gateway.ipv6, "::1", "2001:db8:9::9"):
            source = own.ipv6 if ":" in target else own.ipv4
            a.add(c.datagram(victim.mac, source, target, OPEN_PORT, a.mark))
    a = c.attack("amplification", "broadcast, multicast, unknown and mismatched destinations", "succeeded", "group_denied", "in_denied")
    groups = ("255.255.255.255", "192.0.2.255", "224.0.0.251", "239.1.2.3", "ff02::fb", "ff02::1", "ff0e::1:2")
    for target in groups:
        source = own.ipv6 if ":" in target else own.ipv4
        group = f.BROADCAST if target.endswith(".255") else f.group_mac(target)
        for mac in (group, near.mac, _NO_MAC):
            a.add(c.datagram(mac, source, target, OPEN_PORT, a.mark))
    for mac in (_NO_MAC, f.BROADCAST, "01:00:5e:00:00:fb", "33:33:00:00:00:fb"):
        for source, target in zip(own.addresses * 3, near.addresses + far.addresses + (ABSENT4, ABSENT6)):
            a.add(c.datagram(mac, source, target, OPEN_PORT, a.mark))
    a = c.attack("mcast-host", "the same for the host's own stack", "succeeded", "group_denied")
    for target in groups:
        if target != "192.0.2.255":  # the bridge's rules know no prefixes; see host-services
            source = own.ipv6 if ":" in target else own.ipv4
            a.add(c.datagram(gateway.mac, source, target, HOST_PORT, a.mark))
    for mac in (f.BROADCAST, "01:00:5e:00:00:fb", "33:33:00:00:00:fb"):
        for source, target in zip(own.addresses, gateway.addresses):
            a.add(c.datagram(mac, source, target, HOST_PORT, a.mark))
    a = c.attack("arp-nd-amp", "honest ARP, NS, RS, MLD and DHCP leave for other hosts", "succeeded", may=("host", "near"))
    for target in (near.ipv4, far.ipv4, ABSENT4):
        a.add(f.ethernet(f.BROADCAST, own.mac, f.ARP, f.arp(1, own.mac, own.ipv4, "00:00:00:00:00:00", target, a.mark)))
    for target in (near.ipv6, far.ipv6, ABSENT6):
        group = f.solicited_node(target)
        a.add(c.nd(f.group_mac(group), own.ipv6, group, 135, bytes(4) + f.six(target) + b"\x01\x01" + f.mac(own.mac)))
    a.add(c.nd("33:33:00:00:00:02", own.link_local, "ff02::2", 133, bytes(4) + b"\x01\x01" + f.mac(own.mac)))
    a.add(c.datagram(f.BROADCAST, "0.0.0.0", "255.255.255.255", 67, f.dhcp4(1, own.mac, 0x4C58C003) + a.mark, source_port=68))
    a = c.attack("vxlan-inject", "VXLAN to the hosts, to inject into networks", "succeeded", "tunnel_in_tunnel_denied")
    kind, packet = f.ip(far.ipv4, near.ipv4, *f.echo(far.ipv4, near.ipv4, a.mark))
    inner = b"\x08\0\0\0" + struct.pack("!I", 100 << 8) + f.ethernet(near.mac, far.mac, kind, packet)
    for target in (gateway.ipv4, c.underlay, c.far_underlay, gateway.ipv6):
        a.add(c.datagram(gateway.mac, own.ipv6 if ":" in target else own.ipv4, target, 4789, inner))
    a = c.attack("host-services", "services of the host, on all of its addresses", "succeeded", "to_host_denied", may=("host",))
    for target in (gateway.ipv4, c.underlay, "100.64.0.1", "203.0.113.1", "192.0.2.255", gateway.ipv6, gateway.link_local):
        source = own.ipv4 if "." in target else own.link_local if target == gateway.link_local else own.ipv6
        a.add(c.datagram(gateway.mac, source, target, HOST_PORT, a.mark))
        a.add(c.packet(gateway.mac, source, target, f.TCP, f.tcp(source, target, 39611, 179)))
    a.forbidden.append({"at": "eve", "needle": struct.pack("!HH", 179, 39611).hex()})
    a = c.attack("ll-mac-bypass", "IP to link-local bridge MACs, past all rules of the bridge", "succeeded", "link_local_mac")
    for last in (0x00, 0x03, 0x0E, 0x02):
        for source, target in ((own.ipv4, gateway.ipv4), (near.ipv4, c.underlay), (far.ipv6, gateway.ipv6), ("203.0.113.9", gateway.ipv4)):
            for port, data in ((HOST_PORT, a.mark), (4789, inner)):
                a.add(c.datagram(f"01:80:c2:00:00:{last:02x}", source, target, port, data))


def tables(c):
    """What fills tables of the host. The last ones: they use up the attacker's own allowance."""
    own, near, gateway = c.own, c.near, c.gateway
    a = c.attack("host-neigh-amp", "to addresses of nobody by way of the gateway: the host asks everybody", "succeeded", may=("host",))
    for source, absent in zip(own.addresses, (ABSENT4, ABSENT6)):
        a.add(c.datagram(gateway.mac, source, absent, OPEN_PORT, a.mark))
        for place in ("tunnel", "near"):
            a.forbidden.append({"at": place, "needle": (f.six if ":" in absent else f.four)(absent).hex()})
    a = c.attack("neigh-exhaust", "thousands of addresses of nobody fill the neighbour table", "succeeded", may=("host",))
    frame = c.datagram(gateway.mac, own.ipv6, "2001:db8::5:0", OPEN_PORT, b"")
    a.floods.append({"frame": frame, "offset": 14 + 24 + 14, "count": 2000, "check": 14 + 40 + 6})
    a.talks.append(["from the host to near", "", "udp", near.ipv6, OPEN_PORT, 8, "yes"])
    a.talks.append(["from the host to near", "", "udp", near.ipv4, OPEN_PORT, 8, "yes"])
    a = c.attack("ctl-flood", "3000 ARP requests and solicitations in one go reach the host", "succeeded", "control_rate",
                 may=("host",), judge=_allowance)
    request = f.arp(1, own.mac, own.ipv4, "00:00:00:00:00:00", "10.77.0.0")
    a.floods.append({"frame": f.ethernet(f.BROADCAST, own.mac, f.ARP, request), "offset": 14 + 26, "count": 1500})
    solicit = c.nd(gateway.mac, own.ipv6, gateway.ipv6, 135, bytes(4) + f.six("2001:db8:ffff::"))
    a.floods.append({"frame": solicit, "offset": 14 + 40 + 8 + 14, "count": 1500, "check": 14 + 40 + 2})
    a.forbidden += [{"at": "host", "needle": needle.hex()} for needle in (
        f.mac(own.mac) + f.four(own.ipv4) + bytes(6) + b"\x0a\x4d", f.six("2001:db8:ffff::")[:14])]
    a = c.attack("ct-exhaust", "6000 flows fill the connection table", "succeeded", may=("near",),
                 measure={"tracked": "cat /proc/sys/net/netfilter/nf_conntrack_count"}, judge=_tracked)
    frame = c.datagram(near.mac, own.ipv4, near.ipv4, 53, b"", source_port=10000)
    a.floods.append({"frame": frame, "offset": 14 + 20, "count": 6000, "check": 14 + 20 + 6})


def _allowance(result):
    """What reached the host is what the limit grants: 200 at once and 100 per second."""
    reached, granted = result["arrived"].get("host", 0), 250 + 110 * result["took"]
    return f"{reached} of 3000 control packets reached the host in {result['took']} s" if reached > granted else None


def _tracked(result):
    tracked = result["measured"]["tracked"]
    if tracked > 4096 + 100:
        return f"{tracked} connections tracked"
    # A slow machine does not reach the limit per second, and meets the one of their number.
    if not {"new_connection_rate", "too_many_connections"} & result["rose"].keys():
        return f"no limit of connections counted anything, only {result['rose']}"
    return None
