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
Stands alone; only Python's standard library.
"""

import json
import os
import pathlib
import socket
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

    def spoilt(self, mode, path):
        with self.lock, open(self.directory / "served", "a") as log:
            log.write(f"{mode} {path}\n")

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
        status, body = _ask_lxd(path)
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
        lxd = socket.socket(socket.AF_UNIX)
        lxd.connect(SOCKET)
        lxd.sendall(head)

        def copy(source, target):
            try:
                while data := source.recv(65536):
                    target.sendall(data)
            except OSError:
                pass
            over.set()

        over = threading.Event()
        for source, target in ((client, lxd), (lxd, client)):
            threading.Thread(target=copy, args=(source, target), daemon=True).start()
        while not over.is_set() and self.mode() == mode:
            time.sleep(0.1)
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
