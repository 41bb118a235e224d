"""Sends a guest more than fits into a segment and has it sent back: `exchange.py ADDRESS` prints both digests."""

import hashlib
import socket
import sys
import urllib.request

address = sys.argv[1]
numbers = urllib.request.urlopen(f"http://{address}/numbers", timeout=60).read()
print("received", hashlib.sha256(numbers).hexdigest(), " -")
with socket.create_connection((address, 9000), timeout=60) as connection:
    connection.sendall(numbers)
    connection.shutdown(socket.SHUT_WR)
    print("sent", connection.makefile().read(), end="")
