"""Supervisors that are members of one cluster: each sees the instances of all, and connects its own."""

import json
import time

from labkit.platforms import CLUSTER
from labkit.remote import CommandFailed
from labkit.scenarios.move import only_there
from labkit.scenarios.registry import check, scenario
from labkit.scenarios.scene import AGENT, Guest

_NUMBER = 41
# LXD and Incus take a member for offline after this, at the earliest.
_OFFLINE_S = 11


def _members(scene):
    """{member: its state} as the first member sees them."""
    answer = json.loads(scene.sups[0].client("query", "/1.0/cluster/members?recursion=1"))
    return {member["server_name"]: member["status"] for member in answer}


def _location(scene, guest):
    """On which member the cluster says that it is."""
    query = f"/1.0/instances/{guest.name}?project={guest.project}"
    return json.loads(scene.sups[0].client("query", query))["location"]


def _at(scene, guest, host):
    """The same instance on another host."""
    return Guest(scene, host, guest.name, guest.ipv4, guest.ipv6, guest.project)


def _local(scene, host):
    """The instances that the agent of a host takes for its own."""
    return {nic["instance"] for nic in scene.status(host)["nics"]}


def _explained(scene, host, name, *words):
    """`lxmesh explain` says all of these words, and no nonsense."""
    result = host.run(["lxmesh", "explain", name], check=False)
    said = result.stdout + result.stderr
    lacking = [word for word in words if word not in said]
    check(not lacking, lambda: f"{host.name}: lxmesh explain {name} says nothing of {lacking}: {said}")
    check("restart" not in said, lambda: f"{host.name}: lxmesh explain {name} advises a restart: {said}")


@scenario("cluster-listing", needs=CLUSTER)
def listing(scene):
    """every member is told of all instances and takes its own only: in step, and `explain` says where the others are"""
    for host in scene.sups:
        told = {one["name"]: one["location"] for one in json.loads(host.client("query", "/1.0/instances?recursion=1"))}
        wanted = {guest.name: guest.host.name for guest in scene.everyone}
        check(told == wanted, lambda: f"{host.name} is told of {told}: this shows nothing")
        local = {guest.label for guest in scene.everyone if guest.host is host}
        check(_local(scene, host) == local, lambda: f"{host.name} takes {_local(scene, host)} for its own, which has {local}")
        for guest in scene.everyone:
            if guest.host is not host:
                _explained(scene, host, guest.name, guest.host.name)
    scene.note(scene.sups[0].sh("lxmesh explain c2 2>&1", check=False))


@scenario("cluster-move", needs=CLUSTER)
def move(scene):
    """an instance moved to another member and back is withdrawn where it was and complete where it is; nobody else loses a ping"""
    here, there = scene.sups[0], scene.sups[1]
    guest = scene.guest(here, "m1", _NUMBER)
    scene.dressed(guest)
    nic = scene.present(guest)
    for target in (there, here):
        old, new = guest, _at(scene, guest, target)
        pings = scene.pings((scene.c3, guest.ipv4), (scene.c3, guest.ipv6))
        with scene.no_ping_lost(*scene.ring(), what=f"the move to {target.name}"):
            pings.started()
            old.client("stop", "-f", old.name)
            old.client("move", old.name, "--target", target.name, timeout=300)
            new.client("start", new.name)
            scene.dressed(new)
            scene.reaches(scene.c3, new.ipv4, new.ipv6)
            moved = scene.present(new)
        scene.note("; ".join(map(str, pings.stop())))
        check(moved.mac == nic.mac, f"another MAC: {nic.mac} {moved.mac}")
        _only_elsewhere(scene, moved, old.host)
        _explained(scene, old.host, "m1", target.name)
        scene.calm()
        guest = new
    scene.remove_guest(guest)
    scene.absent(nic)


def _only_elsewhere(scene, nic, host):
    """The host knows it as a stranger only, and takes it for none of its own."""
    only_there(scene, nic, host)
    scene.until(f"{host.name} has forgotten it", lambda: [name for name in _local(scene, host) if name == nic.instance])


@scenario("cluster-equal-host-names", needs=CLUSTER)
def equal_host_names(scene):
    """two members' instances that name the same host device have each its own; one that goes leaves the other's"""
    first = scene.guest(scene.sups[0], "n1", _NUMBER, start=False)
    second = scene.guest(scene.sups[1], "n2", _NUMBER + 1, start=False)
    for guest in (first, second):
        guest.client("config", "device", "set", guest.name, "eth0", "host_name=labsame0")
        guest.client("start", guest.name)
    for guest in (first, second):
        scene.dressed(guest)
        nic = scene.present(guest)
        check(nic.port == "labsame0", f"the device of {guest.label} is {nic.port}: this shows nothing")
    with scene.no_ping_lost((scene.c3, second.ipv4), (scene.c3, second.ipv6), what="the end of the one of the same name"):
        gone = first.nic()
        scene.remove_guest(first)
        scene.absent(gone)
    scene.present(second)
    scene.remove_guest(second)


@scenario("cluster-member-renamed", needs=CLUSTER)
def renamed(scene):
    """a member gets another name and its own back: nothing of its instances changes, no ping is lost, and its agent goes on"""
    host = scene.sups[2]
    before = scene.ours(host)
    with scene.no_ping_lost(*scene.ring(), what="a member renamed and named back"):
        for old, new in ((host.name, "renamed"), ("renamed", host.name)):
            scene.sups[0].client("cluster", "rename", old, new)
            scene.until("the cluster has the name", lambda: [] if new in _members(scene) else [str(_members(scene))])
            # longer than the agent takes to read all again after an event
            time.sleep(3)
            scene.unchanged(host, before, f"its member is now called {new}")
            scene.calm()
            host.run(["systemctl", "restart", AGENT])
            scene.calm()
            scene.unchanged(host, before, f"its member is called {new} and the agent has been restarted")


@scenario("cluster-member-offline", needs=CLUSTER)
def offline(scene):
    """a member's daemon stopped: its instances and all others go on, unchanged and in step; so when it is back"""
    host, others = scene.sups[2], scene.sups[:2]
    before = scene.on_all(scene.ours)
    threshold = f"cluster.offline_threshold={_OFFLINE_S}"
    scene.sups[0].client("config", "set", threshold)
    try:
        with scene.no_ping_lost(*scene.ring(), what="a member offline and back"):
            for unit in host.manager.units:
                host.run(["systemctl", "stop", "--job-mode=ignore-dependencies", unit], timeout=120)
            scene.until("it is offline", lambda: [] if _members(scene)[host.name] == "Offline" else [str(_members(scene))])
            broken = json.loads(scene.sups[0].client("query", "/1.0/instances?recursion=1"))
            broken = [one for one in broken if one["location"] == host.name]
            check(broken and all(one["status"] == "Error" for one in broken),
                  lambda: f"the listing has {broken}: this shows nothing")
            for other in others:
                other.run(["systemctl", "restart", AGENT])

            def calm():
                return [complaint for other in others for complaint in scene.complaints_of(other)]

            scene.until("the others are in step", calm, interval=1)
            scene.on_all(lambda one: scene.unchanged(one, before[one.name], "a member is offline"))
            for other in others:
                _explained(scene, other, scene.c3.name, host.name)
            host.run(["systemctl", "start", *host.manager.units], timeout=120)
            scene.until("it is back", lambda: [] if _members(scene)[host.name] == "Online" else [str(_members(scene))])
            scene.calm()
            scene.on_all(lambda one: scene.unchanged(one, before[one.name], "the member is back"))
    finally:
        host.run(["systemctl", "start", *host.manager.units], timeout=120)
        scene.sups[0].client("config", "unset", "cluster.offline_threshold")


def _restore(scene, host):
    """Ends an evacuation. An emulated Incus finds its database locked for longer than it tries, and then does not start
    an instance; asked again, it goes on where it was."""
    for last in (False, True):
        try:
            scene.sups[0].client("cluster", "restore", host.name, "--force", timeout=600)
            return
        except CommandFailed as failed:
            if last or "Failed to start instance" not in str(failed):
                raise
            scene.note("restored at the second try, because Incus did not start an instance")


@scenario("cluster-evacuation", needs=CLUSTER)
def evacuation(scene):
    """a member evacuated and restored: what migrates is complete where it is meanwhile, what only stops is withdrawn, both are back"""
    home = scene.sups[2]
    guest = scene.guest(home, "e1", _NUMBER)
    guest.client("config", "set", guest.name, "cluster.evacuate=migrate")
    scene.c3.client("config", "set", scene.c3.name, "cluster.evacuate=stop")
    nics = [scene.present(one) for one in (guest, scene.c3)]
    flows = [(scene.c1, scene.c2.ipv4), (scene.c2, scene.extra.ipv6), (scene.extra, scene.c1.ipv4)]
    try:
        with scene.no_ping_lost(*flows, what="an evacuation and its end"):
            scene.sups[0].client("cluster", "evacuate", home.name, "--force", timeout=600)
            place = _location(scene, guest)
            check(place != home.name, f"{guest.label} is still on {place}: this shows nothing")
            there = _at(scene, guest, next(host for host in scene.sups if host.name == place))
            scene.dressed(there)
            scene.present(there)
            scene.reaches(scene.c1, there.ipv4, there.ipv6)
            _only_elsewhere(scene, nics[0], home)
            scene.absent(nics[1])
            scene.calm()
            _restore(scene, home)
            for one in (guest, scene.c3):
                check(_location(scene, one) == home.name, lambda: f"{one.label} is on {_location(scene, one)}")
                scene.dressed(one)
                scene.present(one)
                scene.reaches(scene.c1, one.ipv4, one.ipv6)
            scene.calm()
    finally:
        if _members(scene)[home.name] == "Evacuated":
            _restore(scene, home)
        scene.c3.client("config", "unset", scene.c3.name, "cluster.evacuate")
    scene.remove_guest(guest)
    scene.absent(nics[0])
