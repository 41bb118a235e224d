"""An instance's life: what LXD does to it is followed on its host and, by FRR, on all others.

The tests share one container, t1 on the second host, and leave it running.
"""

import dataclasses
import datetime
import json
import time

from labkit import fleet
from labkit.scenarios import state
from labkit.scenarios.registry import check, scenario
from labkit.scenarios.scene import AGENT

_NUMBER = 21
_PROJECT = "lab-other"
_PROFILE = "lab-services"
# for looking at a NIC's other traces
_NOBODY = "02:00:00:00:0f:ff"


def _t1(scene):
    """The themes' container, running; made if this is the first test to need it."""
    for guest in scene.guests:
        if guest.name == "t1":
            return guest
    guest = scene.guest(scene.sups[1], "t1", _NUMBER)
    scene.dressed(guest)
    return guest


@scenario("start-and-stop")
def start_and_stop(scene):
    """a started instance is known everywhere and reachable; stopped, nothing is left of it; started again, it is back"""
    guest = _t1(scene)
    nic = scene.present(guest)
    scene.reaches(scene.c1, guest.ipv4, guest.ipv6, f"{nic.link_local}%eth0")
    guest.client("stop", "-f", guest.name)
    scene.absent(nic)
    with guest.host.running([guest.host.manager.client, "monitor", "--type=lifecycle", "--format=json"]) as events:
        time.sleep(1)
        guest.client("start", guest.name)
        scene.present(guest)
        said = events.stop()
    scene.note(_latency(guest, said))
    scene.dressed(guest)
    scene.reaches(scene.c1, guest.ipv4, guest.ipv6)


def _latency(guest, said):
    """How long after LXD's event the agent had changed the kernel; information, not a test."""
    started = None
    for line in said.splitlines():
        with_event = json.loads(line) if line.startswith("{") else {}
        if with_event.get("metadata", {}).get("action") == "instance-started":
            started = _seconds(with_event["timestamp"])
    if started is None:
        return "LXD told of no start"
    journal = guest.host.run(["journalctl", "-q", "-u", AGENT, "-o", "json", "-n", "200"]).stdout
    done = []
    for line in journal.splitlines():
        entry = json.loads(line)
        if str(entry.get("MESSAGE", "")).startswith("changed:"):
            done.append(int(entry["__REALTIME_TIMESTAMP"]) / 1e6 - started)
    after = [seconds for seconds in done if -5 < seconds < 20]
    times = ", ".join(f"{1000 * seconds:.0f}" for seconds in after)
    return f"changes in the kernel relative to LXD's instance-started event, ms: {times or 'none found'}"


def _seconds(text):
    """LXD's time stamps have nanoseconds, which datetime does not take."""
    head, _, rest = text.partition(".")
    fraction = "".join(c for c in rest if c.isdigit() or c in "+-:Z")
    digits = fraction.split("+")[0].split("-")[0].rstrip("Z")[:6]
    zone = fraction[fraction.find("+"):] if "+" in fraction else "+00:00"
    return datetime.datetime.fromisoformat(f"{head}.{digits.ljust(6, '0')}{zone}").timestamp()


@scenario("pause-and-resume")
def pause_and_resume(scene):
    """a paused instance is withdrawn everywhere; resumed, it is back"""
    guest = _t1(scene)
    nic = scene.present(guest)
    guest.client("pause", guest.name)
    scene.absent(nic)
    guest.client("start", guest.name)
    scene.present(guest)
    scene.reaches(scene.c1, guest.ipv4, guest.ipv6)


@scenario("rename")
def rename(scene):
    """a renamed instance goes on under its new name and leaves nothing under the old one"""
    guest = _t1(scene)
    old = scene.present(guest)
    guest.client("stop", "-f", "t1")
    guest.client("rename", "t1", "t1-renamed")
    guest.name = "t1-renamed"
    try:
        guest.client("start", guest.name)
        scene.present(guest)
        names = [nic["instance"] for nic in scene.status(guest.host)["nics"]]
        check("t1-renamed" in names and "t1" not in names, f"lxmesh status names {names}")
        lines = state.read(guest.host).dhcp
        check(any(line.endswith(",t1-renamed") for line in lines), f"DHCP does not know the new name: {lines}")
        check(not any(line.endswith(",t1") for line in lines), f"DHCP knows the old name: {lines}")
    finally:
        guest.client("stop", "-f", guest.name, check=False)
        guest.client("rename", guest.name, "t1")
        guest.name = "t1"
        guest.client("start", "t1")
    fresh = scene.present(guest)
    if fresh.port != old.port:
        scene.absent(dataclasses.replace(old, mac=_NOBODY, ipv4=None, ipv6=None))
    scene.dressed(guest)


@scenario("address-change")
def address_change(scene):
    """new addresses replace the old ones everywhere, and a client without a memory gets them by DHCP"""
    guest = _t1(scene)
    old = scene.present(guest)
    before = guest.ipv4, guest.ipv6

    def change(four, six):
        guest.client(
            "config", "device", "set", guest.name, "eth0",
            f"user.lxmesh.ipv4.address={four}", f"user.lxmesh.ipv6.address={six}",
        )
        guest.ipv4, guest.ipv6 = four, six

    change("192.0.2.222", "2001:db8::222")
    scene.present(guest)
    # The MAC, and with it the link-local address, stays in use.
    _no_address(scene, old)
    # A DHCPv6 client that remembers its lease asks only for confirmation, and a server confirms
    # every address that fits the link (RFC 8415 section 18.3.3).
    scene.forget_leases(guest)
    scene.dressed(guest)
    scene.reaches(scene.c1, guest.ipv4, guest.ipv6)
    change(*before)
    scene.present(guest)
    scene.forget_leases(guest)
    scene.dressed(guest)


def _no_address(scene, nic):
    """No host knows the NIC's global addresses any more."""

    def probe():
        looks = scene.on_all(state.read)
        left = []
        for name, look in looks.items():
            left += [
                f"{name} still has {trace}" for trace in look.traces(dataclasses.replace(nic, mac=_NOBODY), False)
            ]
        return left

    scene.until(f"nothing left of {nic.ipv4} and {nic.ipv6}", probe)


@scenario("profile-change")
def profile_change(scene):
    """keys of a profile count: given, changed and taken away, the services follow"""
    guest = _t1(scene)
    nic = scene.present(guest)
    client = guest.host.client

    def services(*ports):
        wanted = {f"{guest.nic().port} . tcp . {port}" for port in ports}

        def probe():
            found = {e for e in state.read(guest.host).sets["in_svc"] if e.startswith(f"{guest.nic().port} ")}
            return [] if found == wanted else [f"in_svc has {found}, wanted {wanted}"]

        scene.until(f"in services are {ports}", probe)

    client("profile", "create", _PROFILE)
    try:
        client("profile", "set", _PROFILE, "user.lxmesh.in_services=tcp/9001")
        guest.client("profile", "add", guest.name, _PROFILE)
        services(9001)
        client("profile", "set", _PROFILE, "user.lxmesh.in_services=tcp/9002 tcp/9003")
        services(9002, 9003)
        client("profile", "unset", _PROFILE, "user.lxmesh.in_services")
        services()
        # a profile may bring a NIC, too
        client(
            "profile", "device", "add", _PROFILE, "eth7", "nic", "nictype=p2p", "name=eth7", "user.lxmesh.parent=vpc",
            "user.lxmesh.ipv4.address=192.0.2.223", "user.lxmesh.ipv6.address=2001:db8::223",
        )
        other = scene.present(guest, "eth7")
        client("profile", "device", "remove", _PROFILE, "eth7")
        scene.absent(other)
    finally:
        guest.client("profile", "remove", guest.name, _PROFILE, check=False)
        client("profile", "delete", _PROFILE, check=False)
    check(scene.present(guest).mac == nic.mac, "the container's own NIC changed")


@scenario("nic-not-ours")
def nic_not_ours(scene):
    """NICs beside ours that are not managed, one point-to-point and one on another bridge, are left alone"""
    guest = _t1(scene)
    nic = scene.present(guest)
    guest.client("config", "device", "add", guest.name, "eth1", "nic", "nictype=p2p", "name=eth1")
    guest.client("config", "device", "add", guest.name, "eth2", "nic", "nictype=bridged", "parent=lab-foreign", "name=eth2")
    try:
        bare, bridged = guest.nic("eth1"), guest.nic("eth2")
        look = state.read(guest.host)
        attached = look.links[bridged.port]
        scene.calm()
        look = state.read(guest.host)
        check(look.links[bare.port].get("master") is None, f"the bare NIC was put into a bridge: {look.links[bare.port]}")
        master = look.links[bridged.port].get("master")
        check(master == "lab-foreign", f"the bridged NIC is in {master}")
        for key in ("flags", "inet6_addr_gen_mode", "linkinfo"):
            old, new = attached.get(key), look.links[bridged.port].get(key)
            if key == "linkinfo":
                old, new = (
                    {k: v for k, v in x.get("info_slave_data", {}).items() if not k.endswith("_timer")} for x in (old, new)
                )
            check(old == new, f"the bridged NIC's {key} changed: {old} → {new}")
        known = [trace for other in (bare, bridged) for trace in look.traces(other, False) if not trace.startswith("FDB")]
        check(not known, f"somebody cares for NICs that are not ours: {known}")
        check(not look.missing_here(nic), f"our NIC lacks {look.missing_here(nic)}")
    finally:
        for device in ("eth1", "eth2"):
            guest.client("config", "device", "remove", guest.name, device, check=False)


@scenario("other-project")
def other_project(scene):
    """an instance of another project, with the name of one of ours, is connected like any other"""
    host = scene.sups[1]
    host.client("project", "create", _PROJECT, "-c", "features.images=false", "-c", "features.profiles=false")
    try:
        guest = scene.guest(host, "c2", 25, project=_PROJECT)
        nic = scene.present(guest)
        scene.dressed(guest)
        scene.reaches(scene.c1, guest.ipv4, guest.ipv6)
        names = [entry["instance"] for entry in scene.status(host)["nics"]]
        check(f"{_PROJECT}/c2" in names and "c2" in names, f"lxmesh status names {names}")
        scene.present(scene.c2)
        scene.remove_guest(guest)
        scene.absent(nic)
        scene.present(scene.c2)
    finally:
        for guest in [guest for guest in scene.guests if guest.project == _PROJECT]:
            scene.remove_guest(guest)
        host.client("project", "delete", _PROJECT, check=False)


@scenario("tenants")
def tenants(scene):
    """LXD lets a restricted project have p2p NICs by nic=allow only; which network they are in, the host file decides"""
    host = scene.sups[1]
    # Projects without their own profiles cannot be restricted.
    keys = ("features.images=false", "restricted=true", "restricted.networks.access=none",
            # What the lab's own profile needs.
            "restricted.containers.nesting=allow", "restricted.containers.privilege=allow")
    host.client("project", "create", _PROJECT, *[word for key in keys for word in ("-c", key)])

    def added(device, *words):
        """What LXD says to a NIC in the project."""
        return host.sh(f"{host.manager.client} --project {_PROJECT} config device add t2 {device} nic {' '.join(words)} 2>&1", check=False)

    def host_file(change):
        host.sh(f"cp -p {fleet.HOST_FILE} /run/host.toml.new; {change}; cp -p /run/host.toml.new {fleet.HOST_FILE}; systemctl reload {AGENT}")

    host.sh(f"cp -p {fleet.HOST_FILE} /run/host.toml.before")
    try:
        client = f"{host.manager.client} --project {_PROJECT}"
        host.sh(f"{host.manager.client} profile show default | sed /raw.lxc/d | {client} profile edit default; "
                f"{client} init bb t2 {' '.join(host.target)}")
        # LXD's default: only NICs that belong to a network of LXD's own.
        said = added("eth0", "nictype=p2p", "name=eth0")
        check("Only managed network devices are allowed" in said, f"LXD says {said}")
        host.client("project", "set", _PROJECT, "restricted.devices.nic", "allow")
        said = added("eth1", "nictype=bridged", "parent=svi-vpc", "name=eth1")
        check("Network not allowed in project" in said, f"LXD says {said}")
        host.client("--project", _PROJECT, "delete", "t2")
        host_file(f"printf '\\n[[tenant]]\\nproject = \"{_PROJECT}\"\\nnetworks = []\\n' >> /run/host.toml.new")
        guest = scene.guest(host, "t2", 27, project=_PROJECT)

        def refused():
            status = scene.status(host)
            listed = [nic["instance"] for nic in status["refused"] if nic["down"]]
            said = [text for text in status["problems"] if f"project \"{_PROJECT}\" may not use network vpc" in text]
            return [] if guest.label in listed and said else [f"refused {listed}, problems {status['problems']}"]

        scene.until("the NIC is refused", refused)
        scene.absent(guest.nic())
        host_file("cp -p /run/host.toml.before /run/host.toml.new")
        scene.present(guest)
        scene.dressed(guest)
        scene.reaches(scene.c1, guest.ipv4, guest.ipv6)
        host_file("sed -i '/^name *= \"vpc\"/a projects = [\"default\"]' /run/host.toml.new")
        scene.until("the NIC is refused again", refused)
        scene.absent(guest.nic())
        scene.present(scene.c2)
    finally:
        host_file("cp -p /run/host.toml.before /run/host.toml.new")
        host.client("--project", _PROJECT, "delete", "-f", "t2", check=False)
        for guest in [guest for guest in scene.guests if guest.project == _PROJECT]:
            scene.remove_guest(guest)
        host.client("project", "delete", _PROJECT, check=False)


@scenario("device-removal")
def device_removal(scene):
    """a NIC removed from a running instance leaves nothing behind; added again, it is complete"""
    guest = _t1(scene)
    nic = scene.present(guest)
    guest.client("config", "device", "remove", guest.name, "eth0")
    scene.absent(nic)
    guest.client(
        "config", "device", "add", guest.name, "eth0", "nic", "nictype=p2p", "name=eth0", "user.lxmesh.parent=vpc",
        f"user.lxmesh.ipv4.address={guest.ipv4}", f"user.lxmesh.ipv6.address={guest.ipv6}",
    )
    scene.present(guest)
    scene.dressed(guest)
    scene.reaches(scene.c1, guest.ipv4)


@scenario("delete")
def delete(scene):
    """a deleted instance leaves nothing behind on any host"""
    guest = _t1(scene)
    nic = scene.present(guest)
    scene.remove_guest(guest)
    scene.absent(nic)
    look = state.read(guest.host)
    check(look.orphans() == set(), f"ports without a bridge: {look.orphans()}")
