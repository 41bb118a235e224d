#!/usr/bin/env python3
"""Sends frames from inside a container as soon as it has a network, again and again, over all its restarts, and
listens at the host, at its neighbour and on the tunnel.

  reboots.py PLAN RESULT   until stopped (SIGTERM); RESULT is then what was sent and what arrived, as JSON

PLAN (JSON): "from" and "near": containers; "eyes": {name: [place, interface, direction]} beside near's; "port": of UDP
at the host; "prefix": what marks the frames; "frames": in hexadecimal, "{port}" stands for the MAC of the host's end of
the container's device. Stands alone, with probe.py beside it."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import probe

LLDP = "01:80:c2:00:00:0e"


def incarnation(name):
    """What is another one after each start; None while there is none."""
    for end in ("cgroup.procs", "init.scope/cgroup.procs"):
        with contextlib.suppress(OSError), open(f"/sys/fs/cgroup/lxc.payload.{name}/{end}") as processes:
            if pid := processes.readline().strip():
                return os.readlink(f"/proc/{pid}/ns/net")
    return None


class Attacker:
    """The container's own end, of one incarnation."""

    def __init__(self, plan):
        with probe.inside(plan["from"]):
            link = json.loads(subprocess.run(["ip", "-j", "link", "show", "dev", "eth0"], capture_output=True, text=True, check=True).stdout)[0]
            subprocess.run(["ip", "link", "set", "eth0", "up"], check=True)
            self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self.raw.bind(("eth0", 0))
        links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout)
        port = next(one for one in links if one["ifindex"] == link["link_index"])
        self.port = port["ifname"]
        self.frames = [bytes.fromhex(frame.replace("{port}", port["address"].replace(":", ""))) for frame in plan["frames"]]

    def send(self):
        sent = 0
        for frame in self.frames:
            with contextlib.suppress(OSError):
                self.raw.send(frame)
                sent += 1
        return sent


def neighbours(port):
    said = subprocess.run(["ip", "neigh", "show", "dev", port, "nud", "all"], capture_output=True, text=True).stdout
    return len(re.findall(r"^10\.77\.", said, re.MULTILINE))


def main():
    with open(sys.argv[1]) as file:
        plan = json.load(file)
    stop = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.append(True))
    prefix = plan["prefix"].encode()
    eyes, seen = {}, {"from": None, "near": None}
    told = {"starts": 0, "near_starts": 0, "sent": 0, "arrived": {}}
    listening = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
    listening[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    for one, any_address in zip(listening, ("", "::")):
        one.bind((any_address, plan["port"]))
        one.setblocking(False)
    attacker = None

    def note(place):
        told["arrived"][place] = told["arrived"].get(place, 0) + 1

    while not stop:
        for name, where in plan["eyes"].items():
            if name not in eyes:
                with contextlib.suppress(OSError):
                    eyes[name] = probe.Eye(name, *where)
        now = {who: incarnation(plan[who]) for who in seen}
        if now["near"] and now["near"] != seen["near"]:
            with contextlib.suppress(OSError, SystemExit):
                eyes["near"] = probe.Eye("near", plan["near"], "eth0", "in")
                seen["near"] = now["near"]
                told["near_starts"] += 1
        if attacker and now["from"] != seen["from"]:
            attacker.raw.close()  # it would keep the network of then
            attacker = None
        if now["from"] and not attacker:
            # Not before there is an eth0, which LXD moves in a little later.
            with contextlib.suppress(OSError, SystemExit, StopIteration, KeyError, subprocess.CalledProcessError):
                attacker = Attacker(plan)
                seen["from"] = now["from"]
                told["starts"] += 1
        if attacker:
            told["sent"] += attacker.send()
            if count := neighbours(attacker.port):
                told["arrived"]["neighbours"] = max(count, told["arrived"].get("neighbours", 0))
        for eye in list(eyes.values()):
            with contextlib.suppress(OSError):
                for frame in eye.frames():
                    if prefix in frame:
                        note(eye.name)
        for one in listening:
            with contextlib.suppress(BlockingIOError):
                while True:
                    if prefix in one.recv(4096):
                        note("host socket")
        time.sleep(0.02)
    with open(sys.argv[2] + ".part", "w") as file:
        json.dump(told, file)
    os.rename(sys.argv[2] + ".part", sys.argv[2])


if __name__ == "__main__":
    main()
