"""A guest, as far as others can see: answers ARP and pings on a tap.

  guest.py TAP MAC ADDRESS [dhcp]

Opens the tap as LXD does for QEMU, says so in a line, and answers until it is killed. While it is stopped (SIGSTOP) it is a
guest that is paused: the tap has a carrier, and nobody behind it. With `dhcp` it first asks for an address, for a minute at
most, and says which it got, with the MTU; from then on SIGUSR1 has it ping the gateway 20 times under the address after its own."""

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time

# So long it asks for an address.
PATIENCE_S = 60
IFF_TAP, IFF_NO_PI, IFF_MULTI_QUEUE, IFF_VNET_HDR = 2, 0x1000, 0x100, 0x4000
TUNSETIFF = 0x400454CA
# struct virtio_net_hdr: nothing is deferred.
HEADER = bytes(10)


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[:len(data) & ~1])) + (data[-1] << 8 if len(data) & 1 else 0)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def answer(frame, mac, address):
    """The frame that answers this one; None if nothing does."""
    kind, body = frame[12:14], frame[14:]
    if kind == b"\x08\x06" and body[6:8] == b"\0\1" and body[24:28] == address:
        reply = body[:6] + b"\0\2" + mac + address + body[8:18]
    elif kind == b"\x08\0" and frame[:6] == mac and body[9] == 1 and body[16:20] == address and body[20] == 8:
        length = int.from_bytes(body[2:4], "big")
        echo = b"\0\0\0\0" + body[24:length]
        echo = b"\0\0" + struct.pack("!H", checksum(echo)) + echo[4:]
        header = body[:10] + b"\0\0" + body[16:20] + body[12:16]
        reply = header[:10] + struct.pack("!H", checksum(header)) + header[12:] + echo
    else:
        return None
    return frame[6:12] + mac + kind + reply


def ipv4(source, target, protocol, body):
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0, source, target)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + body


def dhcp_message(mac, kind, more=b""):
    """A DISCOVER (1) or REQUEST (3) of RFC 2131, to be answered by broadcast."""
    body = struct.pack("!BBBBIHH16x6s202xI", 1, 1, 6, 0, 0x4C584D45, 0, 0x8000, mac, 0x63825363)
    body += bytes([53, 1, kind, 55, 3, 1, 3, 26]) + more + b"\xff"
    source, target, length = bytes(4), b"\xff" * 4, 8 + len(body)
    datagram = struct.pack("!HHHH", 68, 67, length, 0) + body
    total = checksum(source + target + struct.pack("!HH", 17, length) + datagram)
    datagram = datagram[:6] + struct.pack("!H", total or 0xFFFF) + body
    return b"\xff" * 6 + mac + b"\x08\0" + ipv4(source, target, 17, datagram)


def dhcp_answer(frame, mac):
    """(server's MAC, address, options) of an answer to this client; None if the frame is none."""
    if frame[12:14] != b"\x08\0" or frame[23] != 17 or frame[34:38] != b"\0\x43\0\x44" or frame[70:76] != mac:
        return None
    options, rest = {}, frame[282:]
    while rest and rest[0] != 255:
        if rest[0] == 0:
            rest = rest[1:]
            continue
        options[rest[0]] = rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
    return frame[6:12], frame[58:62], options


def send(tap, frame):
    """Sends a frame, if the tap is up."""
    with contextlib.suppress(OSError):
        os.write(tap, HEADER + frame)


def lease(tap, mac):
    """Asks until there is a lease; (gateway's MAC, address, MTU). Not for ever."""
    discover = ask = dhcp_message(mac, 1)
    end, again = time.monotonic() + PATIENCE_S, 0
    while time.monotonic() < end:
        if time.monotonic() >= again:
            send(tap, ask)
            again = time.monotonic() + 1
        if not select.select([tap], [], [], 0.2)[0]:
            continue
        found = dhcp_answer(os.read(tap, 65536)[len(HEADER):], mac)
        if not found:
            continue
        server, address, options = found
        if options.get(53) == b"\x02":
            ask = dhcp_message(mac, 3, b"\x32\4" + address + b"\x36\4" + options[54])
            again = 0
        elif options.get(53) == b"\x05":
            return server, address, int.from_bytes(options.get(26, b""), "big")
        elif options.get(53) == b"\x06":
            ask = discover
    print("no lease", flush=True)
    sys.exit(1)


def main():
    name, mac, address = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", "")), socket.inet_aton(sys.argv[3])
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE | IFF_VNET_HDR))
    print("open", flush=True)
    if sys.argv[4:] == ["dhcp"]:
        gateway, given, mtu = lease(tap, mac)
        echo = b"\x08\0\0\0" + bytes(8)
        echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
        other = address[:3] + bytes([address[3] + 1])
        frame = gateway + mac + b"\x08\0" + ipv4(other, given[:3] + b"\1", 1, echo)
        signal.signal(signal.SIGUSR1, lambda *_: [send(tap, frame) for _ in range(20)])
        print(f"lease {socket.inet_ntoa(given)} {mtu}", flush=True)
    while True:
        try:
            frame = os.read(tap, 65536)[len(HEADER):]
        except OSError:  # the tap was deleted
            return
        if reply := answer(frame, mac, address):
            send(tap, reply)


main()
