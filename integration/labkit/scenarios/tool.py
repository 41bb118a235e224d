#!/usr/bin/env python3
"""Runs on the lab's hosts, mostly inside a container's network: echo servers and connections.
Stands alone; only Python's standard library. `tool.py COMMAND ARGUMENTS`."""

import json
import signal
import socket
import sys
import threading
import time

WAIT_S = 2.5


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


def main():
    command, *arguments = sys.argv[1:]
    if command == "serve":
        serve(arguments)
    elif command == "connect":
        connect(arguments)
    elif command == "talk":
        talk(*arguments)
    else:
        sys.exit(f"tool.py: no command {command!r}")


if __name__ == "__main__":
    main()
