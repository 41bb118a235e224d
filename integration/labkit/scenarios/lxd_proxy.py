#!/usr/bin/env python3
"""Stands between the agent and LXD on a host, and answers badly when told to.

`lxd_proxy.py DIRECTORY SOCKET`: listens at DIRECTORY/unix.socket and speaks with LXD or Incus at
SOCKET. DIRECTORY/mode has one word, read for each request:
  pass     hand everything through
  error    HTTP 500 for every question about instances
  refused  HTTP 500 for everything
  cut      a listing that breaks off in the middle of its JSON
  short    a listing whose connection ends before its announced length
  empty    a listing without any instance
  partial  a listing without its first instance
  garbage  a listing that is no JSON
Event streams are cut at each change of mode, so that the agent asks again at once.
DIRECTORY/served gets one line per answer that was spoilt.
DIRECTORY/records, if it is there, has JSON: by an instance's name, what is otherwise in its record, or null: it is not
there. Under "config" are keys of its own and its expanded configuration; null takes one away.
DIRECTORY/events: each line that is added there is handed on as an event.
Stands alone; only Python's standard library.
"""

import json
import os
import pathlib
import socket
import struct
import sys
import threading
import time


class Proxy:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.lock = threading.Lock()

    def mode(self):
        try:
            return (self.directory / "mode").read_text().strip()
        except OSError:
            return "pass"

    def events(self):
        """The lines of DIRECTORY/events that are complete."""
        try:
            return (self.directory / "events").read_bytes().split(b"\n")[:-1]
        except OSError:
            return []

    def spoilt(self, mode, path):
        with self.lock, open(self.directory / "served", "a") as log:
            log.write(f"{mode} {path}\n")

    def changed(self, path, status, body):
        """The answer with other records, where there are such."""
        name = path.split("?")[0].removeprefix("/1.0/instances").removeprefix("/")
        file = self.directory / "records"
        if not path.startswith("/1.0/instances") or "/" in name or status != 200 or not file.exists():
            return status, body
        records = json.loads(file.read_text())
        answer = json.loads(body)
        if name:
            one = _other(answer["metadata"], records)
            if one is None:
                return 404, b'{"type":"error","error_code":404,"error":"Instance not found"}'
            answer["metadata"] = one
        else:
            others = [_other(one, records) for one in answer["metadata"]]
            answer["metadata"] = [one for one in others if one is not None]
        return status, json.dumps(answer).encode()

    def serve(self):
        path = self.directory / "unix.socket"
        path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        os.chmod(path, 0o666)
        server.listen(64)
        print("ready", flush=True)
        while True:
            client, _ = server.accept()
            threading.Thread(target=self.converse, args=(client,), daemon=True).start()

    def converse(self, client):
        """Requests of one connection, one after the other."""
        with client:
            try:
                while head := _head(client):
                    if not self.answer(client, head):
                        return
            except OSError:
                pass

    def answer(self, client, head):
        """Answers one request; False if the connection is over."""
        path = head.split(b" ", 2)[1].decode()
        mode = self.mode()
        if b"upgrade: websocket" in head.lower():
            if mode == "refused":
                self.spoilt(mode, path)
                _send(client, 500, b'{"type":"error","error_code":500,"error":"lab"}')
                return False
            self.stream(client, head, mode)
            return False
        about_instances = path.startswith("/1.0/instances")
        listing = about_instances and path.split("?")[0] == "/1.0/instances"
        if mode == "refused" or (mode == "error" and about_instances):
            self.spoilt(mode, path)
            _send(client, 500, b'{"type":"error","error_code":500,"error":"lab"}')
            return True
        status, body = self.changed(path, *_ask_lxd(path))
        if not listing or mode in ("pass", "error"):
            _send(client, status, body)
            return True
        self.spoilt(mode, path)
        if mode == "cut":
            _send(client, 200, body[:len(body) // 2])
        elif mode == "short":
            _send(client, 200, body[:len(body) // 2], announced=len(body))
            return False
        elif mode == "garbage":
            _send(client, 200, b"<html>it works</html>")
        elif mode in ("empty", "partial"):
            answer = json.loads(body)
            answer["metadata"] = [] if mode == "empty" else answer["metadata"][1:]
            _send(client, 200, json.dumps(answer).encode())
        return True

    def stream(self, client, head, mode):
        """Hands an event stream through while the mode stays."""
        events = len(self.events())
        lxd = socket.socket(socket.AF_UNIX)
        lxd.connect(SOCKET)
        lxd.sendall(head)
        answer = _head(lxd)
        client.sendall(answer)
        if b" 101 " not in answer.split(b"\r\n", 1)[0]:
            lxd.close()
            return

        def asked():
            try:
                while data := client.recv(65536):
                    lxd.sendall(data)
            except OSError:
                pass
            over.set()

        def told():
            try:
                while message := _message(lxd):
                    with one_at_a_time:
                        client.sendall(message)
            except OSError:
                pass
            over.set()

        over, one_at_a_time = threading.Event(), threading.Lock()
        for half in (asked, told):
            threading.Thread(target=half, daemon=True).start()
        try:
            while not over.is_set() and self.mode() == mode:
                lines = self.events()
                for line in lines[events:]:
                    with one_at_a_time:
                        client.sendall(_text(line))
                events = len(lines)
                time.sleep(0.02)
        except OSError:
            pass
        for side in (client, lxd):
            try:
                side.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        lxd.close()


def _head(connection):
    """A request's head; the agent only reads, so there is no body. b"" at the end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def _message(connection):
    """The frames of a server's message (RFC 6455 section 5.2)."""
    message, last = b"", False
    while not last:
        head = _exactly(connection, 2)
        extended = {126: 2, 127: 8}.get(head[1] & 0x7F, 0)
        length = _exactly(connection, extended)
        size = int.from_bytes(length, "big") if extended else head[1] & 0x7F
        message += head + length + _exactly(connection, size)
        last = bool(head[0] & 0x80)
    return message


def _text(payload):
    """A text frame of a server."""
    length = bytes([len(payload)]) if len(payload) < 126 else struct.pack("!BH", 126, len(payload))
    return b"\x81" + length + payload


def _exactly(connection, size):
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise OSError("the stream has ended")
        data += more
    return data


def _other(record, records):
    """The record as it is to be; None if there is to be none."""
    changes = records.get(record["name"], {})
    if changes is None:
        return None
    config = changes.get("config", {})
    record = {**record, **{key: value for key, value in changes.items() if key != "config"}}
    for part in ("config", "expanded_config"):
        record[part] = {key: value for key, value in {**record[part], **config}.items() if value is not None}
    return record


def _ask_lxd(path):
    """LXD's own answer: status, body."""
    with socket.socket(socket.AF_UNIX) as lxd:
        lxd.connect(SOCKET)
        # version 1.0 gets an answer that ends with the connection, and no chunks
        lxd.sendall(f"GET {path} HTTP/1.0\r\nHost: lxd\r\n\r\n".encode())
        answer = b""
        while data := lxd.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body


def _send(client, status, body, announced=None):
    reason = "OK" if status == 200 else "Lab"
    length = len(body) if announced is None else announced
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    client.sendall(head.encode() + body)


if __name__ == "__main__":
    SOCKET = sys.argv[2]
    Proxy(sys.argv[1]).serve()
