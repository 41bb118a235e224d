"""A guest, as far as others can see: answers ARP and pings on a tap.

  guest.py TAP MAC ADDRESS

Opens the tap as LXD does for QEMU, says so in a line, and answers until it is killed. While it is stopped (SIGSTOP) it is a
guest that is paused: the tap has a carrier, and nobody behind it."""

import fcntl
import os
import socket
import struct
import sys

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


def main():
    name, mac, address = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", "")), socket.inet_aton(sys.argv[3])
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE | IFF_VNET_HDR))
    print("open", flush=True)
    while True:
        try:
            frame = os.read(tap, 65536)[len(HEADER):]
        except OSError:  # the tap was deleted
            return
        if reply := answer(frame, mac, address):
            os.write(tap, HEADER + reply)


main()
