"""A DHCP client of raw frames, honest or not: what is answered to one message, as a line of text."""

import os
import socket
import struct
import time

import frames as f

DISCOVER, REQUEST4, DECLINE4, RELEASE4 = 1, 3, 4, 7
SOLICIT, REQUEST, CONFIRM, RENEW, RELEASE, DECLINE = 1, 3, 4, 5, 8, 9
ANSWERS4 = {2: "offer", 5: "ack", 6: "nak"}
ANSWERS6 = {2: "advertise", 7: "reply"}
ALL_SERVERS = "ff02::1:2"


def client_id(mac):
    """The DHCPv4 client identifier that most clients send (RFC 2132 section 9.14)."""
    return b"\x01" + f.mac(mac)


def duid(mac):
    """DUID-LL (RFC 8415 section 11.4): whoever knows the MAC can guess it."""
    return b"\0\3\0\1" + f.mac(mac)


def link_local(mac):
    six = bytearray(f.mac(mac))
    six[0] ^= 2
    return socket.inet_ntop(socket.AF_INET6, b"\xfe\x80" + bytes(6) + six[:3] + b"\xff\xfe" + six[3:])


def option6(code, data):
    return struct.pack("!HH", code, len(data)) + data


def options6(data):
    while len(data) >= 4:
        code, size = struct.unpack("!HH", data[:4])
        yield code, data[4 : 4 + size]
        data = data[4 + size :]


def addresses6(data):
    """The addresses of a message's options that are granted, in order."""
    for code, body in options6(data):
        if code == 3:
            yield from addresses6(body[12:])
        elif code == 5 and body[20:24] != bytes(4):
            yield socket.inet_ntop(socket.AF_INET6, body[:16])


class Client:
    def __init__(self, port, mac, patience=1.0):
        self.mac, self.patience, self.server = mac, patience, None
        self.line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.line.bind((port, 0))

    def send(self, kind, target, packet):
        self.line.send(f.ethernet(target, self.mac, kind, packet))

    def answer(self, read):
        """What `read` makes of the first frame that it takes for one."""
        end = time.monotonic() + self.patience
        while (left := end - time.monotonic()) > 0:
            self.line.settimeout(left)
            try:
                found = read(self.line.recv(4096))
            except TimeoutError:
                break
            if found is not None:
                return found
        return "nothing"

    def four(self, kind, own="0.0.0.0", wanted=None, identifier=None, server=None, extra=b"", flags=0x8000):
        """One DHCPv4 message; `own` is the address that the client says it has."""
        number = int.from_bytes(os.urandom(4), "big")
        extra += b"" if identifier is None else bytes([61, len(identifier)]) + identifier
        extra += b"" if wanted is None else bytes([50, 4]) + f.four(wanted)
        extra += b"" if server is None else bytes([54, 4]) + f.four(server)
        message = bytearray(f.dhcp4(kind, self.mac, number, flags=flags, extra=extra))
        message[12:16] = f.four(own)
        segment = f.udp("0.0.0.0", "255.255.255.255", 68, 67, bytes(message))
        self.send(f.IP4, f.BROADCAST, f.ipv4("0.0.0.0", "255.255.255.255", f.UDP, segment))

        def read(frame):
            if frame[12:14] != b"\x08\0" or frame[23] != f.UDP or frame[34:38] != b"\0\x43\0\x44":
                return None
            message = frame[42:]
            if message[4:8] != number.to_bytes(4, "big"):
                return None
            answer = message[message.index(b"\x35\x01", 240) + 2]
            return f"{ANSWERS4[answer]} {socket.inet_ntoa(message[16:20])}"

        return self.answer(read)

    def six(self, kind, identifier, number=1, wanted=(), rapid=False):
        """One DHCPv6 message with one IA_NA; `number` is its IAID."""
        transaction = int.from_bytes(os.urandom(3), "big")
        body = struct.pack("!I", kind << 24 | transaction) + option6(1, identifier) + option6(8, b"\0\0")
        if kind in (REQUEST, RENEW, RELEASE, DECLINE):
            body += option6(2, self.server)
        addresses = b"".join(option6(5, f.six(address) + bytes(8)) for address in wanted)
        body += option6(3, struct.pack("!III", number, 0, 0) + addresses)
        body += option6(14, b"") if rapid else b""
        own = link_local(self.mac)
        segment = f.udp(own, ALL_SERVERS, 546, 547, body)
        self.send(f.IP6, f.group_mac(ALL_SERVERS), f.ipv6(own, ALL_SERVERS, f.UDP, segment))

        def read(frame):
            if frame[12:14] != b"\x86\xdd" or frame[20] != f.UDP or frame[54:58] != b"\x02\x23\x02\x22":
                return None
            message = frame[62:]
            if message[1:4] != transaction.to_bytes(3, "big"):
                return None
            for code, data in options6(message[4:]):
                if code == 2:
                    self.server = data
            return " ".join([ANSWERS6[message[0]], *addresses6(message[4:])])

        return self.answer(read)
