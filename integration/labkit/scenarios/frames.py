"""Raw frames: Ethernet, ARP, IP and what is in them, right and wrong."""

import socket
import struct

IP4, ARP, IP6, VLAN, QINQ, RARP = 0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8, 0x8035
ICMP, IGMP, TCP, UDP, ICMP6, SCTP = 1, 2, 6, 17, 58, 132
BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES_MAC = "33:33:00:00:00:01"


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def four(text):
    return socket.inet_aton(text)


def six(text):
    return socket.inet_pton(socket.AF_INET6, text)


def group_mac(address):
    """The Ethernet address of an IP multicast group (RFC 1112, RFC 2464)."""
    if ":" in address:
        return "33:33:" + six(address)[12:].hex(":")
    low = four(address)[1:]
    return "01:00:5e:" + bytes([low[0] & 0x7F, *low[1:]]).hex(":")


def solicited_node(address):
    return socket.inet_ntop(socket.AF_INET6, six("ff02::1:ff00:0")[:13] + six(address)[13:])


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def crc32c(data):
    """SCTP's checksum (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def ethernet(target, source, kind, payload):
    return mac(target) + mac(source) + struct.pack("!H", kind) + payload


def ipv4(source, target, protocol, payload, hops=64, number=1, fragment=0, options=b""):
    """`fragment`: the header's flags and offset (in units of 8 bytes) as they stand there."""
    words = 5 + len(options) // 4
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x40 | words, 0, 4 * words + len(payload), number, fragment, hops, protocol, 0,
        four(source), four(target),
    ) + options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(source, target, header, payload, hops=64):
    return struct.pack("!IHBB", 6 << 28, len(payload), header, hops) + six(source) + six(target) + payload


def _pseudo(source, target, protocol, length):
    if ":" in source:
        return six(source) + six(target) + struct.pack("!II", length, protocol)
    return four(source) + four(target) + struct.pack("!BBH", 0, protocol, length)


def icmp(kind, code, body):
    """ICMPv4; `body` follows the checksum."""
    data = struct.pack("!BBH", kind, code, 0) + body
    return data[:2] + struct.pack("!H", checksum(data)) + data[4:]


def icmp6(source, target, kind, body, code=0):
    data = struct.pack("!BBH", kind, code, 0) + body
    return data[:2] + struct.pack("!H", checksum(_pseudo(source, target, ICMP6, len(data)) + data)) + data[4:]


def udp(source, target, source_port, target_port, data):
    segment = struct.pack("!HHHH", source_port, target_port, 8 + len(data), 0) + data
    return segment[:6] + struct.pack("!H", checksum(_pseudo(source, target, UDP, len(segment)) + segment) or 0xFFFF) + data


def tcp(source, target, source_port, target_port, flags=2, data=b""):
    segment = struct.pack("!HHIIBBHHH", source_port, target_port, 1, 1, 0x50, flags, 1024, 0, 0) + data
    return segment[:16] + struct.pack("!H", checksum(_pseudo(source, target, TCP, len(segment)) + segment)) + segment[18:]


def sctp_init(source_port, target_port, data=b""):
    """`data`, a multiple of 4 bytes, is a parameter that nobody knows."""
    more = struct.pack("!HH", 0x8000, 4 + len(data)) + data if data else b""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20 + len(more), 0x4C584D45, 65535, 1, 1, 1) + more
    packet = struct.pack("!HHII", source_port, target_port, 0, 0) + chunk
    return packet[:8] + struct.pack("<I", crc32c(packet)) + chunk


def ip(source, target, protocol, payload, hops=64):
    """(ethertype, packet) of the family of the addresses."""
    if ":" in source:
        return IP6, ipv6(source, target, protocol, payload, hops)
    return IP4, ipv4(source, target, protocol, payload, hops)


def echo(source, target, marker, reply=False):
    """An ICMP echo message of the addresses' family, to go into `ip`."""
    body = struct.pack("!HH", 4242, 1) + marker
    if ":" in source:
        return ICMP6, icmp6(source, target, 129 if reply else 128, body)
    return ICMP, icmp(0 if reply else 8, 0, body)


def arp(operation, sender_mac, sender, target_mac, target, marker=b"", hardware=1, protocol=IP4, sizes=(6, 4)):
    body = struct.pack("!HHBBH", hardware, protocol, *sizes, operation)
    body += mac(sender_mac) + four(sender) + mac(target_mac) + four(target)
    return body + marker  # Ethernet's padding


def dhcp6(kind, hardware, number, options=b""):
    """A DHCPv6 message with a client identifier made of the MAC (RFC 8415), an IA_NA and the options given."""
    identity = b"\x00\x03\x00\x01" + mac(hardware)
    return (bytes([kind]) + number.to_bytes(3, "big") + struct.pack("!HH", 1, len(identity)) + identity
            + struct.pack("!HHIII", 3, 12, 1, 0, 0) + struct.pack("!HHH", 8, 2, 0) + options)


def extension(header, following, data=b"\x01\x04\0\0\0\0"):
    """An IPv6 extension header of options (or what looks like it) before `following`."""
    return header, bytes([following, (len(data) + 2) // 8 - 1]) + data


def fragment6(following, offset, more, number, data):
    return struct.pack("!BBHI", following, 0, offset | more, number) + data


def dhcp4(kind, hardware, number, flags=0, relay="0.0.0.0", reply=False, extra=b""):
    """A BOOTP message with the option of DHCP's message type (RFC 2131)."""
    head = struct.pack("!BBBBIHH", 2 if reply else 1, 1, 6, 0, number, 0, flags) + bytes(12) + four(relay)
    return head + mac(hardware).ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + extra + b"\xff"
