"""A host that stands alone, for tests that bring many NICs or kill the agent: namespaces with a bridge
and the real agent, an LXD that exists only here, and the other ends of the NICs in this process's
own namespace. In a machine with the whole ruleset; nothing of the lab's LXD is used."""

import base64
import contextlib
import hashlib
import ipaddress
import json
import os
import select
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time

import frames as f

PATIENCE_S = 60
CHECKS = "/run/lxmesh-bpf"

HOST_FILE = """\
version = 1
[fabric]
name = "alone"
asn = 64500
reflectors = ["203.0.113.100"]
supervisors = ["203.0.113.0/24"]
unprotected_tags = true
[lxd]
socket = "{at}/lxd.sock"
[agent]
control_socket = "{at}/control.sock"
reload_interval_s = 3600
[dhcp]
enabled = false
directory = "{at}/dnsmasq"
[tags]
{tags}
[[network]]
name = "vpc"
vni = 100
gateway = ["192.0.2.1/24", "2001:db8::1/64"]
"""


class Nic:
    """A NIC of an instance of its own: what a test asks of it, and how LXD shows it."""

    def __init__(self, number):
        self.number, self.name = number, f"n{number}"
        self.port, self.peer = f"veth{number:x}", f"peer{number:x}"
        self.mac = f"00:16:3e:00:{number >> 8:02x}:{number & 255:02x}"
        self.ipv4 = ipaddress.ip_address(f"192.0.2.{number + 10}")
        self.ipv6 = ipaddress.ip_address(f"2001:db8::{number + 10:x}")
        self.tags = []

    def keys(self):
        """What stands under `user.lxmesh.` beside network and addresses."""
        return {}

    def acl(self):
        """The access list that only this NIC has, if any."""
        return None

    def instance(self):
        keys = {"parent": "vpc", "ipv4.address": str(self.ipv4), "ipv6.address": str(self.ipv6)} | self.keys()
        device = {"type": "nic", "nictype": "p2p", "name": "eth0"} | {f"user.lxmesh.{key}": value for key, value in keys.items()}
        config = {"volatile.eth0.host_name": self.port, "volatile.eth0.hwaddr": self.mac}
        return {
            "architecture": "x86_64", "config": config, "expanded_config": config, "devices": {"eth0": device},
            "expanded_devices": {"eth0": device}, "name": self.name, "project": "default", "type": "container",
            "status": "Running", "status_code": 103, "last_used_at": "2026-01-01T00:00:00Z", "profiles": [],
            "created_at": "2026-01-01T00:00:00Z", "location": "none", "description": "", "ephemeral": False, "stateful": False,
        }


# -- an LXD that exists only here ---------------------------------------------------------------


class Lxd(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    answers = {}
    listeners = ()

    def show(self, nics):
        """These NICs' instances and access lists, all there is from now on; tells of it."""
        self.answers = {
            "/1.0": {"auth": "trusted", "environment": {
                "server": "lxd", "server_version": "5.0.2", "server_clustered": False, "server_name": "alone", "kernel": "Linux",
            }},
            "/1.0/instances": [nic.instance() for nic in nics],
            "/1.0/network-acls": [acl for nic in nics if (acl := nic.acl())],
        }
        event = {
            "type": "lifecycle", "timestamp": "2026-01-01T00:00:00Z", "location": "none", "project": "default",
            "metadata": {"action": "network-acl-updated", "source": "/1.0/network-acls/all", "name": "all", "project": "default"},
        }
        text = json.dumps(event).encode()
        for listener in self.listeners:
            with contextlib.suppress(OSError):
                listener.sendall(b"\x81\x7e" + struct.pack("!H", len(text)) + text)


class LxdConnection(socketserver.StreamRequestHandler):
    def handle(self):
        while line := self.rfile.readline().decode():
            path, key = line.split()[1], None
            while (header := self.rfile.readline().decode().strip()):
                if header.lower().startswith("sec-websocket-key:"):
                    key = header.partition(":")[2].strip()
            if key:
                accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
                self.request.sendall(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
                self.server.listeners += (self.request,)
                self.rfile.read()
                return
            found = self.server.answers.get(path.partition("?")[0])
            status = 404 if found is None else 200
            body = {"type": "error" if found is None else "sync", "status_code": status, "error_code": 404 if found is None else 0, "error": "", "metadata": found}
            body = json.dumps(body).encode()
            self.request.sendall(f"HTTP/1.1 {status} Maybe\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


# -- the host, and the agent on it ---------------------------------------------------------------


class Host:
    """A namespace with the bridge and the agent; this process is where the other ends of the NICs are."""

    # What a kind of host has besides: text of the host file, lines of `ip -batch`.
    more_text, more_devices = "", ()

    def __init__(self, nics, program, tags=(), environment=()):
        """For these NICs, with these tags and their bits in the host file."""
        self.nics, self.program, self.environment = nics, program, dict(environment)
        self.directory = tempfile.TemporaryDirectory()
        at = self.directory.name
        tags = "\n".join(f"{name} = {bit}" for name, bit in dict(tags).items())
        with open(f"{at}/host.toml", "w") as file:
            file.write(HOST_FILE.format(at=at, tags=tags) + self.more_text)
        self.lxd = Lxd(f"{at}/lxd.sock", LxdConnection)
        threading.Thread(target=self.lxd.serve_forever, daemon=True).start()
        with open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w") as file:
            file.write("1")
        self.inside = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 36000"], stdout=subprocess.PIPE)
        self.inside.stdout.readline()
        self.agent = None
        self._devices()

    def _devices(self):
        # What an agent of the machine has loaded is hidden from here: this runs with mounts of its own.
        os.makedirs(CHECKS, exist_ok=True)
        self.run("mount", "-t", "tmpfs", "none", CHECKS)
        self.run(self.program, "prepare")
        mine = os.getpid()
        lines = [
            "link set lo up", "address add 203.0.113.1/32 dev lo",
            "link add svi-vpc address 02:00:00:00:00:64 type bridge forward_delay 0",
            "link add vxlan-vpc type vxlan id 100 dstport 4789 local 203.0.113.1 nolearning gbp",
            "link set vxlan-vpc master svi-vpc up", "link set svi-vpc up",
            "address add 192.0.2.1/24 dev svi-vpc", "address add 2001:db8::1/64 dev svi-vpc nodad",
            *self.more_devices,
        ]
        lines += [f"link add {nic.port} type veth peer name {nic.peer} address {nic.mac} netns {mine}" for nic in self.nics]
        self.run("ip", "-batch", "-", input="\n".join(lines))
        up = "\n".join(f"link set {nic.peer} up" for nic in self.nics)
        subprocess.run(["ip", "-batch", "-"], input=up, text=True, check=True)

    def command(self, *words):
        return ["nsenter", "-t", str(self.inside.pid), "-n", *words]

    def run(self, *words, check=True, **more):
        result = subprocess.run(self.command(*words), capture_output=True, text=True, **more)
        if check and result.returncode:
            sys.exit(f"{' '.join(words)}: {result.stderr[-3000:]}")
        return result

    def lxmesh(self, *words, **more):
        return self.run(self.program, *words, "--host-file", f"{self.directory.name}/host.toml", check=False, **more)

    def start(self):
        log = open(f"{self.directory.name}/log", "w")
        words = self.command(self.program, "agent", "--host-file", f"{self.directory.name}/host.toml")
        self.agent = subprocess.Popen(words, stderr=log, env=os.environ | self.environment)

    def take_over(self, nics):
        """LXD shows these NICs; returns when the agent has nothing more to do about them."""
        self.lxd.show(nics)
        if not self.agent:
            self.start()
        self.until("all ports forward", lambda: self._ports_that_do_not_forward(len(nics)))
        self.until("the agent has nothing to do", self.plan)

    def _ports_that_do_not_forward(self, wanted):
        """What is lost because a port is not up yet would count as denied."""
        forwarding = self.run("bridge", "link", "show").stdout.count("state forwarding")
        return forwarding < wanted + 1 and f"{forwarding} ports forward"

    def plan(self):
        """What is left to do; nothing if nothing is."""
        plan = self.lxmesh("plan")
        return plan.stdout != "nothing to do\n" and plan.stdout + plan.stderr

    def until(self, what, complaint):
        deadline = time.monotonic() + PATIENCE_S
        while text := complaint():
            if time.monotonic() > deadline or self.agent.poll() is not None:
                with open(f"{self.directory.name}/log") as log:
                    sys.exit(f"not so: {what}: {text[-2000:]}\n{log.read()[-3000:]}")
            time.sleep(0.1)

    def traced(self, questions):
        said = self.lxmesh("trace", "--json", "--from", "-", input="\n".join(questions))
        answers = [json.loads(line) for line in said.stdout.splitlines()]
        if len(answers) != len(questions):
            sys.exit(f"{len(answers)} answers to {len(questions)} questions: {said.stderr[-2000:]}")
        return answers

    def end(self):
        for process in (self.agent, self.inside):
            if process:
                process.kill()
                process.wait()


def number_of(frame):
    """The number of a packet that arrived; None if it is none of ours."""
    four = frame[12:14] == b"\x08\x00"
    protocol, at = (frame[23], 34) if four else (frame[20], 54)
    at += 4 if protocol in (f.ICMP, f.ICMP6) else 0
    return int.from_bytes(frame[at:at + 2], "big") if frame[12:14] in (b"\x08\x00", b"\x86\xdd") else None


class Wires:
    """All other ends of the NICs: frames are sent by one, and seen where they arrive."""

    def __init__(self):
        self.sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.receiver.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING
        self.receiver.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self.receiver.setblocking(False)
        self.arrived = {}

    def look(self, patience=0):
        """Notes what has arrived until nothing has for a while."""
        while select.select([self.receiver], [], [], patience)[0]:
            frame, (interface, *_) = self.receiver.recvfrom(2048)
            if (number := number_of(frame)) is not None:
                self.arrived[number] = interface

    def send(self, packets):
        for count, packet in enumerate(packets):
            self.sender.sendto(packet.frame(), (packet.from_nic.peer, 0))
            if count % 64 == 0:
                self.look()
        self.look(0.5)
