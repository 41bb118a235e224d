#!/usr/bin/env python3
"""Runs on the lab's hosts, mostly inside a container's network: echo servers, connections,
raw frames. Stands alone; only Python's standard library. `tool.py COMMAND ARGUMENTS`."""

import json
import select
import signal
import socket
import struct
import sys
import threading
import time

WAIT_S = 4.0


# -- echo servers and connections ----------------------------------------------------------


def serve(services):
    """Echoes on tcp/PORT and udp/PORT until stopped."""
    for service in services:
        protocol, port = service.split("/")
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        server = socket.socket(socket.AF_INET6, kind)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("::", int(port)))
        if protocol == "tcp":
            server.listen(64)
            threading.Thread(target=_accept, args=(server,), daemon=True).start()
        else:
            threading.Thread(target=_echo_datagrams, args=(server,), daemon=True).start()
    print("ready", flush=True)
    _wait_for_stop()


def _accept(server):
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection):
    try:
        while data := connection.recv(4096):
            connection.sendall(data)
    except OSError:
        pass


def _echo_datagrams(server):
    while True:
        data, peer = server.recvfrom(4096)
        server.sendto(data, peer)


def _wait_for_stop():
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def connect(targets):
    """Tries PROTOCOL/PORT@ADDRESS, all at once; prints {target: yes | no | refused}."""
    results = {}

    def attempt(target):
        service, _, address = target.partition("@")
        protocol, port = service.split("/")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with socket.socket(family, kind) as client:
            client.settimeout(WAIT_S)
            try:
                client.connect((address, int(port)))
                if protocol == "udp":
                    client.send(b"hello")
                    client.recv(16)
                results[target] = "yes"
            except ConnectionRefusedError:
                results[target] = "refused"
            except OSError:
                results[target] = "no"

    threads = [threading.Thread(target=attempt, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(results))


def talk(address, port):
    """Sends a line every 100 ms over one TCP connection until stopped or stuck for 10 s."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM)
    client.settimeout(10)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    sent = echoed = 0
    slowest = 0.0
    error = None
    try:
        client.connect((address, int(port)))
        print("ready", flush=True)
        while not stop.is_set():
            line = f"{sent:08d}\n".encode()
            begun = time.monotonic()
            client.sendall(line)
            sent += 1
            back = b""
            while len(back) < len(line):
                part = client.recv(len(line) - len(back))
                if not part:
                    raise OSError("closed by the other side")
                back += part
            if back != line:
                raise OSError(f"sent {line!r}, got {back!r}")
            echoed += 1
            slowest = max(slowest, time.monotonic() - begun)
            stop.wait(0.1)
    except OSError as problem:
        error = str(problem)
    print(json.dumps({"sent": sent, "echoed": echoed, "slowest_s": round(slowest, 3), "error": error}), flush=True)


# -- frames ----------------------------------------------------------------------------------


def mac_bytes(text):
    return bytes.fromhex(text.replace(":", ""))


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(target, source, kind, payload):
    return mac_bytes(target) + mac_bytes(source) + struct.pack("!H", kind) + payload


def ipv4(source, target, protocol, payload):
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(target),
    )
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(source, target, header, payload, hops=64):
    six = socket.AF_INET6
    return struct.pack("!IHBB", 6 << 28, len(payload), header, hops) + socket.inet_pton(six, source) + socket.inet_pton(six, target) + payload


def echo4(marker):
    body = struct.pack("!BBHHH", 8, 0, 0, 4242, 1) + marker
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def icmp6(source, target, kind, body):
    """ICMPv6 with its checksum; `body` follows the checksum."""
    six = socket.AF_INET6
    data = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = socket.inet_pton(six, source) + socket.inet_pton(six, target) + struct.pack("!IHBB", len(data), 0, 0, 58)
    return data[:2] + struct.pack("!H", checksum(pseudo + data)) + data[4:]


def udp(source_port, target_port, data):
    # a checksum of zero means none (RFC 768)
    return struct.pack("!HHHH", source_port, target_port, 8 + len(data), 0) + data


def arp(operation, sender_mac, sender, target_mac, target, marker):
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    body += mac_bytes(sender_mac) + socket.inet_aton(sender) + mac_bytes(target_mac) + socket.inet_aton(target)
    return body + marker  # Ethernet's padding


def send(interface, frames):
    """Sends hexadecimal frames, each three times; prints how many."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        for _ in range(3):
            for frame in frames:
                raw.send(bytes.fromhex(frame))
                time.sleep(0.02)
    print(json.dumps({"sent": 3 * len(frames)}))


def sniff(interface, prefix):
    """Until stopped, notes markers PREFIX + 2 digits in frames that arrive; prints them."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    seen = {}
    needle = prefix.encode()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as raw:
        raw.bind((interface, 0))
        print("ready", flush=True)
        while not stop.is_set():
            if not select.select([raw], [], [], 0.2)[0]:
                continue
            frame, address = raw.recvfrom(4096)
            at = frame.find(needle)
            if at >= 0 and address[2] != socket.PACKET_OUTGOING:
                marker = frame[at:at + len(needle) + 2].decode(errors="replace")
                seen[marker] = seen.get(marker, 0) + 1
    print(json.dumps(seen), flush=True)


def listen(port):
    """Until stopped, counts datagrams that reach a UDP socket of this place; prints the count."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    count = 0
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", int(port)))
        print("ready", flush=True)
        while not stop.is_set():
            if select.select([server], [], [], 0.2)[0]:
                server.recv(4096)
                count += 1
    print(json.dumps({"datagrams": count}), flush=True)


def main():
    command, *arguments = sys.argv[1:]
    if command == "serve":
        serve(arguments)
    elif command == "connect":
        connect(arguments)
    elif command == "talk":
        talk(*arguments)
    elif command == "send":
        send(arguments[0], sys.stdin.read().split())
    elif command == "sniff":
        sniff(*arguments)
    elif command == "listen":
        listen(*arguments)
    else:
        sys.exit(f"tool.py: no command {command!r}")


if __name__ == "__main__":
    main()
