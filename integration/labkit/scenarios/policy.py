"""Services: what is listed is reachable, nothing else is, and a change touches nobody else."""

import contextlib
import ipaddress
import json
import os
import pathlib
import random
import re
import time

from labkit.console import LabError
from labkit.scenarios import frames, state
from labkit.scenarios.registry import check, scenario
from labkit.scenarios.scene import TOOL, until_ready

# Rounds of 250 policies and 1000 packets in `policies-agree`: more for a longer run.
_ROUNDS = int(os.environ.get("LXMESH_LAB_POLICY_ROUNDS", "4"))
_POLICIES = "/var/tmp/lxmesh-lab-policies"
_IN = "user.lxmesh.in_services"
_OUT = "user.lxmesh.out_services"
_KEYS = {"in": _IN, "out": _OUT, "tags": "user.lxmesh.tags", "acls": "user.lxmesh.acls"}


@contextlib.contextmanager
def _services(scene, **of):
    """Instance-level keys for the block: c1_out="tcp/80", ...; removed afterwards."""
    guests = {guest.name: guest for guest in scene.everyone}
    set_keys = []
    try:
        for name, value in of.items():
            guest, direction = guests[name.split("_")[0]], name.split("_")[1]
            key = _KEYS[direction]
            guest.client("config", "set", guest.name, f"{key}={value}")
            set_keys.append((guest, key))
        yield
    finally:
        for guest, key in set_keys:
            guest.client("config", "unset", guest.name, key, check=False)


def _expect(scene, source, wanted):
    """{target: reachable?} holds, soon."""

    def probe():
        found = scene.connects(source, *wanted)
        return [
            f"{source.label} to {target}: {found[target]}, wanted {'yes' if yes else 'no'}"
            for target, yes in wanted.items() if (found[target] == "yes") != yes
        ]

    scene.until(f"services as listed, from {source.label}", probe)


@scenario("services")
def services(scene):
    """an allowed service is reachable, one not listed is not, inbound and outbound, same host and across hosts"""
    with _services(
        scene, c1_out="tcp/80 tcp/5001 udp/5300", c2_in="tcp/80 udp/5300", c101_in="tcp/80", c3_out="udp/5300",
    ), scene.serving(scene.c2, "tcp/5001", "udp/5300", "udp/5301"):
        c2, extra = scene.c2, scene.extra
        _expect(scene, scene.c1, {
            f"tcp/80@{c2.ipv4}": True, f"tcp/80@{c2.ipv6}": True,
            f"udp/5300@{c2.ipv4}": True, f"udp/5300@{c2.ipv6}": True,
            f"tcp/80@{extra.ipv4}": True, f"tcp/80@{extra.ipv6}": True,
            # listed outbound here, not inbound there
            f"tcp/5001@{c2.ipv4}": False, f"tcp/5001@{c2.ipv6}": False,
            # in neither list, although somebody listens
            f"udp/5301@{c2.ipv4}": False, f"tcp/8080@{extra.ipv4}": False,
        })
        # listed inbound there, not outbound here
        _expect(scene, scene.c3, {
            f"tcp/80@{c2.ipv4}": False, f"tcp/80@{c2.ipv6}": False, f"udp/5300@{c2.ipv6}": True,
        })
    _expect(scene, scene.c1, {f"tcp/80@{scene.c2.ipv4}": False})


@contextlib.contextmanager
def _bystander(scene):
    """A TCP connection from c1 to c3 and pings around, which must not notice anything."""
    talk = ["python3", TOOL, "talk", scene.c3.ipv4, "5600"]
    flows = [(scene.c1, scene.c3.ipv4), (scene.c3, scene.c1.ipv6), (scene.extra, scene.c3.ipv4)]
    with scene.no_ping_lost(*flows, what="changing services"):
        with until_ready(scene.c1.place.net, talk) as talking:
            yield
            said = json.loads(talking.stop().splitlines()[-1])
    scene.note(f"bystander's connection: {said}")
    check(said["error"] is None and said["sent"] == said["echoed"], f"the bystander's connection broke: {said}")
    check(said["sent"] > 10, f"the bystander hardly talked: {said}")


@scenario("service-change-of-instance")
def change_of_instance(scene):
    """an instance's key changes what is reachable without re-creating the NIC or touching other flows"""
    c2 = scene.c2
    with _services(scene, c1_out="tcp/80 tcp/8080 tcp/5600", c3_in="tcp/5600", c2_in="tcp/80"), \
            scene.serving(scene.c3, "tcp/5600"):
        _expect(scene, scene.c1, {
            f"tcp/80@{c2.ipv4}": True, f"tcp/8080@{c2.ipv4}": False, f"tcp/5600@{scene.c3.ipv4}": True,
        })
        port = c2.nic().port
        with _bystander(scene), scene.no_ping_lost((scene.c1, c2.ipv4), what="the changed container itself"):
            c2.client("config", "set", c2.name, f"{_IN}=tcp/8080")
            _expect(scene, scene.c1, {f"tcp/80@{c2.ipv4}": False, f"tcp/8080@{c2.ipv4}": True, f"tcp/8080@{c2.ipv6}": True})
            c2.client("config", "unset", c2.name, _IN)
            _expect(scene, scene.c1, {f"tcp/80@{c2.ipv4}": False, f"tcp/8080@{c2.ipv4}": False})
        check(c2.nic().port == port, "the NIC was re-created, which this test was to avoid")


@scenario("service-change-of-device")
def change_of_device(scene):
    """a device's key (LXD re-creates the NIC) changes what is reachable without touching other flows"""
    c2 = scene.c2
    with _services(scene, c1_out="tcp/80 tcp/8080 tcp/5600", c3_in="tcp/5600"), scene.serving(scene.c3, "tcp/5600"):
        _expect(scene, scene.c1, {f"tcp/80@{c2.ipv4}": False, f"tcp/5600@{scene.c3.ipv4}": True})
        try:
            with _bystander(scene):
                for allowed, denied in ((80, 8080), (8080, 80)):
                    c2.client("config", "device", "set", c2.name, "eth0", f"{_IN}=tcp/{allowed}")
                    scene.dressed(c2)
                    _expect(scene, scene.c1, {
                        f"tcp/{allowed}@{c2.ipv4}": True, f"tcp/{allowed}@{c2.ipv6}": True, f"tcp/{denied}@{c2.ipv4}": False,
                    })
        finally:
            c2.client("config", "device", "unset", c2.name, "eth0", _IN)
        scene.dressed(c2)
        scene.present(c2)
        _expect(scene, scene.c1, {f"tcp/80@{c2.ipv4}": False, f"tcp/8080@{c2.ipv4}": False})


@scenario("service-withdrawn")
def withdrawn(scene):
    """an established connection ends when its service is withdrawn"""
    c3 = scene.c3
    with _services(scene, c1_out="tcp/5600", c3_in="tcp/5600"), scene.serving(c3, "tcp/5600"):
        _expect(scene, scene.c1, {f"tcp/5600@{c3.ipv4}": True})
        with until_ready(scene.c1.place.net, ["python3", TOOL, "talk", c3.ipv4, "5600"]) as talking:
            c3.client("config", "unset", c3.name, _IN)
            _expect(scene, scene.c1, {f"tcp/5600@{c3.ipv4}": False})
            # The client says so by itself, 10 s after its last echo.
            said = json.loads(list(talking.lines())[-1])

        def forgotten():
            tracked = c3.host.sh(f"grep 'dst={c3.ipv4} .*dport=5600 ' /proc/net/nf_conntrack", check=False)
            return [f"still tracked: {tracked}"] if tracked else []

        scene.until(f"{c3.host.name} has forgotten the connection", forgotten)
    check(said["error"] is not None, f"the connection went on without its service: {said}")


@scenario("service-ranges-and-peers")
def ranges_and_peers(scene):
    """ranges of ports, prefixes, the own network and ICMP types decide as they say, in both families"""
    c1, c3, extra = scene.c1, scene.c3, scene.extra
    with _services(
        scene, c1_out="tcp/5000-5003@network tcp/5005 udp/5300-5400 icmp/timestamp-request",
        c2_in=f"tcp/5001-5002 tcp/5005@{c3.ipv4} tcp/5005@{c1.ipv6} udp/5300@192.0.2.0/25",
        c3_out="any", c101_in="any@192.0.2.0/24 tcp/5001@2001:db8::/64",
    ), scene.serving(scene.c2, "tcp/5000", "tcp/5001", "tcp/5002", "tcp/5003", "tcp/5005", "udp/5300", "udp/5301"), \
            scene.serving(extra, "tcp/5001", "tcp/5004", "udp/5300"):
        c2 = scene.c2
        _expect(scene, c1, {
            f"tcp/5001@{c2.ipv4}": True, f"tcp/5002@{c2.ipv6}": True,
            f"tcp/5000@{c2.ipv4}": False, f"tcp/5003@{c2.ipv6}": False,
            f"tcp/5005@{c2.ipv4}": False, f"tcp/5005@{c2.ipv6}": True,
            f"udp/5300@{c2.ipv4}": True, f"udp/5300@{c2.ipv6}": False, f"udp/5301@{c2.ipv4}": False,
            f"tcp/5001@{extra.ipv4}": True, f"tcp/5001@{extra.ipv6}": True, f"tcp/5004@{extra.ipv4}": False,
            f"udp/5300@{extra.ipv4}": True, f"udp/5300@{extra.ipv6}": False,
        })
        _expect(scene, c3, {
            f"tcp/5005@{c2.ipv4}": True, f"tcp/5005@{c2.ipv6}": False, f"tcp/5004@{extra.ipv4}": True,
            f"tcp/5001@{c2.ipv6}": True, f"tcp/5003@{c2.ipv4}": False,
        })
        # What was there plain still is: echo, whatever else is listed.
        scene.reaches(c1, c2.ipv4, c2.ipv6, extra.ipv4, extra.ipv6)


@scenario("tags")
def tags(scene):
    """a tag set where a packet comes from is matched where it arrives, on the same host and across hosts"""
    c1, c2, c3, extra = scene.c1, scene.c2, scene.c3, scene.extra
    with _services(
        scene, c1_out="tcp/5000-5009", c3_out="tcp/5000-5009", c1_tags="bastion web", c3_tags="web",
        c2_in="tcp/5001@tag:bastion tcp/5002-5003@tag:web", c101_in="tcp/5001@tag:bastion",
    ), scene.serving(c2, "tcp/5001", "tcp/5002", "tcp/5004"), scene.serving(extra, "tcp/5001", "tcp/5002"):
        for four in (True, False):
            there = c2.ipv4 if four else c2.ipv6
            here = extra.ipv4 if four else extra.ipv6
            _expect(scene, c1, {f"tcp/5001@{there}": True, f"tcp/5002@{there}": True, f"tcp/5004@{there}": False,
                                f"tcp/5001@{here}": True, f"tcp/5002@{here}": False})
            _expect(scene, c3, {f"tcp/5001@{there}": False, f"tcp/5002@{there}": True, f"tcp/5001@{here}": False})
        # A mark that a container gives its packets is none of ours.
        mark = "import socket\ns=socket.socket();s.setsockopt(1,36,0xffff);s.settimeout(4)\ns.connect((%r,5001))"
        forged = c3.place.net.run(["python3", "-c", mark % c2.ipv4], check=False)
        check(forged.returncode != 0 and "imed out" in forged.stderr, f"a forged mark got through: {forged.stderr}")
        c1.client("config", "unset", c1.name, _KEYS["tags"])
        _expect(scene, c1, {f"tcp/5001@{c2.ipv4}": False, f"tcp/5001@{extra.ipv6}": False})


@scenario("tags-networkd", seldom=True)
def tags_networkd(scene):
    """tags travel also after systemd-networkd was restarted, which changes tunnels so that newer kernels drop tagged packets"""
    pings = scene.pings(*scene.ring())
    try:
        pings.started()
        scene.on_all(lambda host: host.sh("systemctl restart systemd-networkd"))
        time.sleep(5)
        scene.calm()
    finally:
        results = pings.stop()
    scene.note("networkd restarted on all hosts: " + "; ".join(map(str, results)))
    tags(scene)


@contextlib.contextmanager
def _acl(host, name, *rules):
    """An ACL of LXD for the block; rules are (direction, "key=value ...")."""
    host.client("network", "acl", "create", name)
    try:
        for direction, words in rules:
            host.client("network", "acl", "rule", "add", name, direction, *words.split())
        yield
    finally:
        host.client("network", "acl", "delete", name, check=False)


@scenario("acls")
def acls(scene):
    """LXD's access lists allow and drop, and edits take effect"""
    c1, c3, extra = scene.c1, scene.c3, scene.extra
    host = extra.host
    with _acl(
        host, "labweb", ("ingress", "action=allow protocol=tcp destination_port=5001-5003"),
        ("ingress", f"action=drop protocol=tcp destination_port=5002 source={c3.ipv4}"),
    ), _services(scene, c1_out="tcp/5000-5009", c3_out="tcp/5000-5009", c101_acls="labweb", c101_in="tcp/5005"), \
            scene.serving(extra, "tcp/5001", "tcp/5002", "tcp/5004", "tcp/5005"):
        _expect(scene, c1, {f"tcp/5001@{extra.ipv4}": True, f"tcp/5002@{extra.ipv6}": True,
                            f"tcp/5004@{extra.ipv4}": False, f"tcp/5005@{extra.ipv4}": True})
        _expect(scene, c3, {f"tcp/5002@{extra.ipv4}": False, f"tcp/5002@{extra.ipv6}": True, f"tcp/5001@{extra.ipv4}": True})
        said = host.run(["lxmesh", "trace", c3.ipv4, "c101", "tcp/5002"], check=False)
        check(said.returncode == 2 and "ACL labweb ingress rule" in said.stdout, f"trace: {said.stdout}{said.stderr}")
        host.client("network", "acl", "rule", "add", "labweb", "ingress", "action=allow", "protocol=tcp", "destination_port=5004")
        _expect(scene, c1, {f"tcp/5004@{extra.ipv6}": True})
        host.client("network", "acl", "rule", "remove", "labweb", "ingress", "action=drop")
        _expect(scene, c3, {f"tcp/5002@{extra.ipv4}": True})


@scenario("limits")
def limits(scene):
    """a NIC's own limit of connections holds, is counted, and goes with the key"""
    c1, extra = scene.c1, scene.extra
    host = c1.host
    many = (
        "import socket,sys,time\nsockets=[]\n"
        "for port in range(5700,5710):\n"
        " for _ in range(20):\n"
        "  s=socket.socket(); s.setblocking(False); s.connect_ex((sys.argv[1],port)); sockets.append(s)\n"
        "time.sleep(4); ok=sum(not s.getsockopt(socket.SOL_SOCKET,socket.SO_ERROR) and _peer(s) for s in sockets); print(ok)\n"
    )
    many = "def _peer(s):\n try:\n  s.getpeername(); return 1\n except OSError:\n  return 0\n" + many

    def connected():
        said = c1.place.net.run(["python3", "-c", many, extra.ipv4], timeout=60).stdout
        return int(said.split()[-1])

    key = "user.lxmesh.limits.connections"
    with _services(scene, c1_out="tcp/5700-5709 tcp/5600", c101_in="tcp/5700-5709 tcp/5600"), \
            scene.serving(extra, *(f"tcp/{port}" for port in range(5700, 5710)), "tcp/5600"):
        _expect(scene, c1, {f"tcp/5600@{extra.ipv4}": True})
        check(connected() == 200, "not even without a limit of its own do all connect")
        before = state.read(host).counters["too_many_connections"]
        try:
            c1.client("config", "set", c1.name, f"{key}=64")
            scene.until("the limit is there", lambda: [] if state.read(host).sets.get("limit_conns") else ["no limit"])
            now = connected()
            check(now <= 64, f"{now} connections in spite of the limit")
            dropped = state.read(host).counters["too_many_connections"] - before
            check(dropped > 0, "the counter too_many_connections did not rise")
            scene.note(f"{now} of 200 connected, {dropped} packets dropped")
            scene.reaches(extra, c1.ipv4, c1.ipv6)
        finally:
            c1.client("config", "unset", c1.name, key)


@scenario("one-way-flows")
def one_way_flows(scene):
    """packets of one flow that has no answer are no new connections; as many flows are"""
    c1, extra = scene.c1, scene.extra
    send = (
        "import socket,sys\n"
        "new=lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "one=new()\n"
        "for _ in range(300): (one if sys.argv[2]=='one' else new()).sendto(b'x',(sys.argv[1],5710))\n"
    )

    def cut(flows):
        before = state.read(c1.host).counters["new_connection_rate"]
        c1.place.net.run(["python3", "-c", send, extra.ipv4, flows], timeout=60)
        return state.read(c1.host).counters["new_connection_rate"] - before

    key = "user.lxmesh.limits.new_connections"
    with _services(scene, c1_out="udp/5710", c101_in="udp/5710"):
        try:
            c1.client("config", "set", c1.name, f"{key}=10")
            scene.until("the limit is there", lambda: [] if state.read(c1.host).sets.get("limit_new") else ["no limit"])
            one, many = cut("one"), cut("many")
            check(one == 0, f"{one} of 300 packets of one flow were cut")
            check(many > 0, "300 flows were not limited")
            scene.note(f"of 300 packets in one flow {one} were cut, in as many flows {many}")
        finally:
            c1.client("config", "unset", c1.name, key)


class _Entry:
    """One random service, and what it means to this test."""

    def __init__(self, dice, inward, peers):
        self.protocol = dice.choice(["tcp", "tcp", "udp", "any"])
        self.first = dice.randrange(5001, 5009)
        self.last = dice.choice([self.first, self.first, min(self.first + dice.randrange(4), 5008)])
        kinds = ["", "", "net4", "net6", "network"] + (["tag"] if inward else [])
        self.kind = dice.choice(kinds)
        address = dice.choice(peers)
        if self.kind in ("net4", "net6"):
            six = self.kind == "net6"
            length = dice.choice([128, 124, 64, 0] if six else [32, 30, 24, 0])
            self.net = ipaddress.ip_network(f"{address.ipv6 if six else address.ipv4}/{length}", strict=False)
        self.tag = dice.choice(["web", "bastion"])

    def word(self):
        what = "any" if self.protocol == "any" else f"{self.protocol}/{self.first}"
        if self.protocol != "any" and self.last != self.first:
            what += f"-{self.last}"
        peer = {"": "", "net4": "@{}", "net6": "@{}", "network": "@network", "tag": f"@tag:{self.tag}"}[self.kind]
        return what + peer.format(getattr(self, "net", ""))

    def meets(self, protocol, port, peer, tags):
        if self.protocol != "any" and not (self.protocol == protocol and self.first <= port <= self.last):
            return False
        if self.kind.startswith("net") and self.kind != "network":
            return ipaddress.ip_address(peer) in self.net
        return self.kind != "tag" or self.tag in tags


@scenario("trace-agrees")
def trace_agrees(scene):
    """random policies: kernel, `lxmesh trace` and a plain reading of the policies say the same"""
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    source, target = scene.c1, scene.extra
    probes = [(protocol, port) for protocol in ("tcp", "udp") for port in range(5001, 5009)]
    listening = [f"{protocol}/{port}" for protocol, port in probes]
    counts = {True: 0, False: 0}
    with scene.serving(target, *listening):
        for _ in range(5):
            outward = [_Entry(dice, False, [target, scene.c3]) for _ in range(dice.randrange(1, 6))]
            inward = [_Entry(dice, True, [source, scene.c3]) for _ in range(dice.randrange(1, 6))]
            tags = dice.choice(["", "web", "bastion", "web bastion"])
            out_words, in_words = (" ".join(entry.word() for entry in entries) for entries in (outward, inward))
            about = f"seed {seed}: out {out_words}; in {in_words}; tags {tags!r}"
            wanted = {}
            for protocol, port in probes:
                for a, b in ((source.ipv4, target.ipv4), (source.ipv6, target.ipv6)):
                    yes = any(entry.meets(protocol, port, b, ()) for entry in outward) and any(
                        entry.meets(protocol, port, a, tags.split()) for entry in inward)
                    wanted[f"{protocol}/{port}@{b}"] = yes
                    counts[yes] += 1
            with _services(scene, c1_out=out_words, c1_tags=tags or ",", c101_in=in_words):
                try:
                    _expect(scene, source, wanted)
                except Exception as error:
                    raise type(error)(f"{error}\n{about}") from None
                flows = "".join(f"c1 c101 {service}\n" for service in listening)
                told = source.host.run(["lxmesh", "trace", "--json", "--from", "-"], check=False, input=flows).stdout.splitlines()
                for service, text in zip(listening, told, strict=True):
                    for trace in json.loads(text)["traces"]:
                        says = trace["allowed"]
                        check(says == wanted[f"{service}@{trace['destination']}"],
                              f"trace says {says} of {service} to {trace['destination']}: {trace['steps']}\n{about}")
    scene.note(f"seed {seed}: {counts[True]} flows allowed, {counts[False]} denied")


@scenario("policies-agree", usual=False)
def policies_agree(scene):
    """a thousand random policies, thousands of packets: kernel, `lxmesh trace` and a plain reading say the same"""
    host = scene.c1.host
    for name in ("policies.py", "alone.py", "frames.py"):
        host.push(pathlib.Path(__file__).with_name(name), f"{_POLICIES}/{name}")
    command = ["unshare", "--net", "--mount", "python3", f"{_POLICIES}/policies.py", "--rounds", str(_ROUNDS)]
    said = host.run(command, check=False, timeout=60 + 120 * _ROUNDS)
    try:
        told = json.loads(said.stdout)
    except ValueError:
        raise LabError(f"policies.py: {said.stdout}{said.stderr}") from None
    scene.note(f"seed {told['seed']}: {told['policies']} policies, {told['packets']} packets, {told['allowed']} allowed; "
               + ", ".join(f"{what} {seconds} s" for what, seconds in told["seconds"].items()))
    check(not told["count"], lambda: f"{told['count']} differences:\n" + "\n".join(told["differences"]))


@scenario("audit")
def audit(scene):
    """audit lets pass and logs what no service allows; logged drops name NIC, peer and rule; off drops again"""
    c1, extra = scene.c1, scene.extra
    host = c1.host
    denied = {f"tcp/5001@{extra.ipv4}": False, f"tcp/5001@{extra.ipv6}": False}
    passing = {target: True for target in denied}
    audit_key, log_key = "user.lxmesh.audit", "user.lxmesh.log_drops"

    def keys(value):
        script = "for name in c1 c101; do {} config set $name {}={} {}={}; done"
        host.sh(script.format(host.manager.client, audit_key, value, log_key, "true"))

    with scene.serving(extra, "tcp/5001"):
        try:
            keys("true")
            scene.mark_journals()
            _expect(scene, c1, passing)
            about = rf"c1 device eth0: tcp from {re.escape(c1.ipv4)} port \d+ to {re.escape(extra.ipv4)} port 5001"
            scene.says(host, rf"passed in audit only from instance {about} \(rule audit_out\)",
                       rf"passed in audit only to instance c101 device eth0: tcp from {re.escape(c1.ipv6)} .* \(rule audit_in\)")
            # What is forged is none of audit's business.
            spoof = ("import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_RAW,255)\n"
                     "s.setsockopt(0,3,1)\n"
                     "s.sendto(bytes.fromhex(%r),(%r,0))")
            packet = frames.ipv4(scene.c3.ipv4, extra.ipv4, frames.UDP, frames.udp(scene.c3.ipv4, extra.ipv4, 1, 2, b"x"))
            c1.place.net.run(["python3", "-c", spoof % (packet.hex(), extra.ipv4)])
            scene.says(host, rf"dropped from instance c1 device eth0: udp from {re.escape(scene.c3.ipv4)} port 1 "
                             rf"to {re.escape(extra.ipv4)} port 2 \(rule spoofed_source\)")
            keys("false")
            _expect(scene, c1, denied)
            scene.says(host, rf"dropped from instance {about} \(rule out_denied\)")
        finally:
            host.sh(f"for name in c1 c101; do for key in {audit_key} {log_key}; do {host.manager.client} config unset $name $key; done; done")
