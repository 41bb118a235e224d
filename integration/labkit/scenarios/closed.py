"""Devices that no agent attached: agent stopped, NIC refused, host restarted with instances that start by themselves."""

import contextlib
import json
import pathlib
import time

from labkit import fleet
from labkit.scenarios import frames as f
from labkit.scenarios import state
from labkit.scenarios.registry import check, scenario
from labkit.scenarios.scene import AGENT

_PROBE = "/var/tmp/lxmesh-lab-closed.py"
_PORT, _LISTENING = 9777, 9778
# On the host: opens sockets, has frames sent from the instance's network namespace, prints what arrived.
_PROBE_TEXT = f'''\
import json, socket, struct, subprocess, sys

def sum16(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

def udp(source, target, ports, data):
    body = struct.pack("!HHHH", *ports, 8 + len(data), 0) + data
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 1, 0, 64, 17, 0, *map(socket.inet_aton, (source, target)))
    return head[:10] + struct.pack("!H", sum16(head)) + head[12:] + body

def mac(text):
    return bytes.fromhex(text.replace(":", ""))

def send(to, here, peer):
    own = b"\\x02\\xbb\\0\\0\\0\\1"
    inner = b"\\xff" * 6 + own + b"\\x08\\0" + udp(peer, here, (1, 2), b"inner")
    frames = {{
        "udp": (to, b"\\x08\\0", udp(peer, here, (1000, {_PORT}), b"forged")),
        "dhcp": (b"\\xff" * 6, b"\\x08\\0", udp("0.0.0.0", "255.255.255.255", (68, {_PORT}), b"forged")),
        "vxlan": (to, b"\\x08\\0", udp(peer, here, (40000, 4789), b"\\x08\\0\\0\\0\\0\\0\\x64\\0" + inner)),
        "arp": (b"\\xff" * 6, b"\\x08\\x06", struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, own,
                socket.inet_aton("198.18.77.7"), bytes(6), socket.inet_aton(here))),
    }}
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.bind(("eth0", 0))
    for target, kind, body in frames.values():
        for _ in range(3):
            out.send(target + own + kind + body)

if sys.argv[1] == "send":
    send(mac(sys.argv[2]), *sys.argv[3:5])
    sys.exit()
pid, port, here, peer = sys.argv[1:5]
listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listening.bind(("", {_PORT}))
listening.settimeout(0.5)
address = open(f"/sys/class/net/{{port}}/address").read().strip()
subprocess.run(["nsenter", "-t", pid, "-n", "ip", "link", "set", "eth0", "up"], check=True)
subprocess.run(["nsenter", "-t", pid, "-n", sys.executable, __file__, "send", address, here, peer], check=True)
heard = 0
try:
    while True:
        heard += listening.recv(2048) == b"forged"
except TimeoutError:
    pass
known = subprocess.run(["ip", "neighbour", "show", "dev", port], capture_output=True, text=True, check=True).stdout
print(json.dumps({{"heard": heard, "neighbours": known.count("198.18.77.7")}}))
'''


_REBOOTS = "/var/tmp/lxmesh-lab-reboots"
_UNIT = "lab-reboots.service"
_UNIT_TEXT = f"""\
[Unit]
DefaultDependencies=no
After=local-fs.target
Before=lxd.service snap.lxd.daemon.service incus.service network-pre.target
[Service]
ExecStart=/usr/bin/python3 {_REBOOTS}/reboots.py {_REBOOTS}/plan.json {_REBOOTS}/result.json
[Install]
WantedBy=sysinit.target
"""


def _forged(host, eve, near, other):
    """What eve sends as soon as she has a network: nothing of it may arrive anywhere. In hexadecimal."""
    own, victim = eve.nic(), near.nic()
    look = state.read(host)
    gateway_mac = look.links[state.SVI]["address"]
    mark = b"LXMESHBOOT"
    host4, host6, far4 = fleet.GATEWAY4, fleet.GATEWAY6, other.address
    to_host = ["{port}", gateway_mac, "ff:ff:ff:ff:ff:ff", "01:80:c2:00:00:0e"]

    def udp(target_mac, source, target, port, source_port=5400, data=mark):
        kind, packet = f.ip(source, target, f.UDP, f.udp(source, target, source_port, port, data))
        head = f.ethernet("00:00:00:00:00:00", own.mac, kind, packet).hex()[12:]
        return target_mac.replace(":", "") + head if ":" in target_mac else target_mac + head

    frames = []
    for mac in to_host:
        frames += [udp(mac, source, target, _LISTENING) for source, target in (
            (far4, host.address), (eve.ipv4, host.address), (near.ipv4, host4), (eve.ipv4, host4), ("0.0.0.0", "255.255.255.255"),
            (near.ipv6, host6), (eve.ipv6, host6), (own.link_local, host6), ("::", "ff02::1"))]
        frames += [udp(mac, "198.18.9.9", victim.ipv4, 5300), udp(mac, "2001:db8:9::9", victim.ipv6, 5300)]
    for mac in (victim.mac, "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"):
        frames += [udp(mac, source, target, 5300) for source, target in (
            (host4, victim.ipv4), (far4, victim.ipv4), (eve.ipv4, victim.ipv4), (host6, victim.ipv6), (eve.ipv6, victim.ipv6),
            (own.link_local, "ff02::1"))]
        frames.append(udp(mac, host4, victim.ipv4, 68, 67, f.dhcp4(5, victim.mac, 1, reply=True) + mark))
    for mac in ("ff:ff:ff:ff:ff:ff", "01:80:c2:00:00:0e"):
        for number, target in enumerate((host4, host.address, "169.254.0.1")):
            request = f.arp(1, own.mac, f"10.77.0.{number + 1}", "00:00:00:00:00:00", target, mark)
            frames.append(f.ethernet(mac, own.mac, f.ARP, request).hex())
    return frames


def _prepare_listening(scene, eve, near):
    """What is needed to send and to listen, on their host."""
    host = eve.host
    other = next(one for one in scene.sups if one is not host)
    for name in ("reboots.py", "probe.py"):
        host.push(pathlib.Path(__file__).with_name(name), f"{_REBOOTS}/{name}")
    plan = {
        "from": eve.name, "near": near.name, "port": _LISTENING, "prefix": "LXMESHBOOT", "frames": _forged(host, eve, near, other),
        "eyes": {"host": ["", state.SVI, "in"], "tunnel": ["", state.TUNNEL, "out"]},
    }
    host.push(json.dumps(plan), f"{_REBOOTS}/plan.json")
    host.push(_UNIT_TEXT, f"/etc/systemd/system/{_UNIT}")
    host.sh("systemctl daemon-reload")


def _heard(host):
    """Ends it; what it has seen."""
    host.sh(f"systemctl stop {_UNIT}")
    return json.loads(host.read(f"{_REBOOTS}/result.json"))


def _end_listening(host):
    host.sh(f"systemctl disable {_UNIT}; systemctl stop {_UNIT}; rm -rf {_REBOOTS} /etc/systemd/system/{_UNIT}; systemctl daemon-reload", check=False)


def _restarts(scene, count, first):
    host = scene.sups[0]
    eve, near = (scene.guest(host, f"closed{number}", 60 + number) for number in (first, first + 1))
    for guest in (eve, near):
        scene.dressed(guest)
    _prepare_listening(scene, eve, near)
    try:
        host.sh(f"systemctl start {_UNIT}")
        for _ in range(count):
            eve.client("restart", "-f", eve.name, timeout=180)
        scene.dressed(eve)
        told = _heard(host)
        scene.note(f"{told['starts']} starts seen, {told['sent']} frames sent")
        # It may have begun while the first restart was under way.
        check(told["starts"] >= count, lambda: f"it saw only {told}")
        check(told["sent"] > 50 * count, lambda: f"it sent only {told}")
        check(not told["arrived"], lambda: f"arrived: {told['arrived']}")
        # The same on a host without what closes it, or nothing of this tells anything.
        with _without_agent(host):
            host.sh(f"nft delete table inet lxmesh_closed; nft delete table arp lxmesh_closed; systemctl start {_UNIT}")
            try:
                eve.client("restart", "-f", eve.name, timeout=180)
                for _ in range(10):
                    time.sleep(3)
                    open_host = _heard(host)
                    if {"host socket", "neighbours"} <= open_host["arrived"].keys():
                        break
                    host.sh(f"systemctl start {_UNIT}")
            finally:
                host.sh("nft -f /etc/lxmesh/closed.nft")
        check({"host socket", "neighbours"} <= open_host["arrived"].keys(), lambda: f"on an open host: {open_host}")
    finally:
        _end_listening(host)
    scene.dressed(eve)
    scene.reaches(eve, near.ipv4, scene.c2.ipv6)


@scenario("closed-restarts")
def restarts(scene):
    """nothing that an instance forges arrives anywhere while it restarts again and again and sends as soon as it can"""
    _restarts(scene, 4, first=5)


@scenario("closed-restarts-100", usual=False)
def restarts_100(scene):
    """the same, a hundred times"""
    _restarts(scene, 100, first=7)


def _port_of(guest):
    return guest.nic().port


def _is_up(host, port):
    link = json.loads(host.sh(f"ip -j link show dev {port}"))[0]
    return "UP" in link["flags"]


def _counted(host):
    text = host.sh("nft -j list counters table inet lxmesh_closed; echo; nft -j list counters table arp lxmesh_closed")
    counters = {}
    for line in filter(None, text.splitlines()):
        for one in json.loads(line)["nftables"]:
            if "counter" in one:
                counters[one["counter"]["name"]] = one["counter"]["packets"]
    return counters


def _attack(scene, guest):
    """What arrives of forged packets and ARP, and what counted them."""
    host = guest.host
    host.push(_PROBE_TEXT, _PROBE)
    query = f"/1.0/instances/{guest.name}/state?project={guest.project}"
    pid = json.loads(host.client("query", query))["pid"]
    other = next(one for one in scene.sups if one is not host)
    before = _counted(host)
    arrived = json.loads(host.run(["python3", _PROBE, str(pid), _port_of(guest), host.address, other.address]).stdout)
    after = _counted(host)
    return arrived, {name for name in after if after[name] > before.get(name, 0)}


def _is_closed(scene, guest, why):
    arrived, counted = _attack(scene, guest)
    check(arrived == {"heard": 0, "neighbours": 0}, lambda: f"{why}: {arrived}")
    wanted = {"fabric_port", "foreign_source", "no_address", "arp_denied"}
    check(wanted <= counted, lambda: f"{why}: counted only {counted}")


@contextlib.contextmanager
def _without_agent(host):
    host.sh(f"systemctl stop {AGENT}")
    try:
        yield
    finally:
        host.sh(f"systemctl start {AGENT}")


@scenario("closed-agent-stopped")
def agent_stopped(scene):
    """an instance that starts while no agent runs passes nothing; without the tables it would"""
    host = scene.sups[0]
    with _without_agent(host):
        guest = scene.guest(host, "closed1", 61)
        check(_is_up(host, _port_of(guest)), "LXD has left the device down: this shows nothing")
        _is_closed(scene, guest, "agent stopped")
        # The same frames arrive on a host that lacks the tables, or the attack tells nothing.
        host.sh("nft delete table inet lxmesh_closed; nft delete table arp lxmesh_closed")
        try:
            query = f"/1.0/instances/{guest.name}/state?project={guest.project}"
            pid = json.loads(host.client("query", query))["pid"]
            words = ["python3", _PROBE, str(pid), _port_of(guest), host.address, scene.sups[1].address]
            arrived = json.loads(host.run(words).stdout)
        finally:
            host.sh("nft -f /etc/lxmesh/closed.nft")
        check(arrived["heard"] > 0 and arrived["neighbours"] > 0, lambda: f"on an open host: {arrived}")
    scene.dressed(guest)
    scene.reaches(guest, scene.c1.ipv4, scene.c2.ipv6)


@scenario("closed-refused")
def refused(scene):
    """the device of a NIC that is refused is put down, is listed, and is connected once it may be"""
    host = scene.sups[0]
    guest = scene.guest(host, "closed2", 62, start=False)
    guest.client("config", "device", "set", guest.name, "eth0", "user.lxmesh.parent=nowhere")
    guest.client("start", guest.name, timeout=180)
    port = _port_of(guest)

    def probe():
        listed = [nic["port"] for nic in scene.status(host)["refused"] if nic["down"]]
        return [] if port in listed and not _is_up(host, port) else [f"{port} is up, or not listed: {listed}"]

    scene.until(f"{port} is down", probe)
    host.sh(f"ip link set {port} up")
    scene.until(f"{port} is down again", probe)
    guest.client("config", "device", "set", guest.name, "eth0", "user.lxmesh.parent=vpc")
    scene.dressed(guest)
    scene.reaches(guest, scene.c2.ipv4)


@scenario("closed-reload")
def reload_(scene):
    """a flushed ruleset gets the tables again, by the agent, and by the unit without one; nothing fights"""
    host = scene.sups[0]

    def there():
        text = host.sh("nft list tables")
        return [f"no {name} in {text}" for name in ("inet lxmesh_closed", "arp lxmesh_closed") if name not in text]

    host.sh("nft delete table inet lxmesh_closed; nft delete table arp lxmesh_closed")
    scene.until("the agent has loaded them again", there)
    with _without_agent(host):
        host.sh("nft delete table inet lxmesh_closed; nft delete table arp lxmesh_closed; "
                "systemctl daemon-reload; systemctl restart lxmesh-firewall")
        check(not there(), there)
    scene.calm()
    host.sh("systemctl reload lxmesh-firewall")
    scene.calm()
    said = host.sh("lxmesh plan")
    check("closed" not in said, lambda: f"the agent and the unit disagree: {said}")


# Five minutes, of which the host takes most to stop and start: what is closed then is that of closed-agent-stopped.
@scenario("closed-reboot", usual=False)
def reboot(scene):
    """after a restart of the host, instances that start by themselves find it closed, before any agent runs and while one starts"""
    host = scene.sups[2]
    guest, near = scene.guest(host, "closed3", 63), scene.guest(host, "closed4", 64)
    for one in (guest, near):
        scene.dressed(one)
        one.client("config", "set", one.name, "boot.autostart=true")
    _prepare_listening(scene, guest, near)
    host.sh(f"systemctl disable {AGENT}; systemctl enable {_UNIT}")
    try:
        leader = f"cat /run/lab/{host.name}.leader"
        running = scene.lab.outside.sh(leader)
        host.run(["systemctl", "--no-block", "reboot"])
        scene.until(f"{host.name}: restarted",
                    lambda: [f"{host.name} still runs"] if scene.lab.outside.sh(leader) == running else [],
                    patience=180, interval=1)
        host.start_manager()
        scene.until("the container has started", lambda: [] if _port_of(guest) else ["no device yet"], patience=180)
        order = host.sh("systemctl show -P ActiveEnterTimestampMonotonic lxmesh-firewall; "
                        "for u in lxd snap.lxd.daemon incus; do systemctl show -P ActiveEnterTimestampMonotonic $u; done")
        times = [int(line) for line in order.split() if line.isdigit() and int(line)]
        check(len(times) >= 2 and times[0] < min(times[1:]), lambda: f"the unit is not before LXD: {order}")
        check(host.sh(f"systemctl is-active {AGENT}; exit 0").strip() != "active", "the agent runs: this shows nothing")
        _is_closed(scene, guest, "after a restart")
        host.sh(f"systemctl enable --now {AGENT}")
        for one in (guest, near):
            scene.dressed(one)
        told = _heard(host)
        scene.note(f"{told['sent']} frames sent")
        check(told["starts"] and told["near_starts"] and told["sent"] > 1000, lambda: f"it saw only {told}")
        check(not told["arrived"], lambda: f"arrived: {told['arrived']}")
    finally:
        host.sh(f"systemctl enable --now {AGENT}")
        _end_listening(host)
    scene.dressed(guest)
    # the lab's other instances do not start by themselves
    scene.c3.client("start", scene.c3.name, check=False, timeout=180)
    scene.dressed(scene.c3)
    scene.reaches(scene.c3, scene.c1.ipv4)
