"""Services: what is listed is reachable, nothing else is, and a change touches nobody else."""

import contextlib
import json

from labkit.scenarios.registry import check, scenario
from labkit.scenarios.scene import TOOL, until_ready

_IN = "user.lxmesh.in_services"
_OUT = "user.lxmesh.out_services"


@contextlib.contextmanager
def _services(scene, **of):
    """Instance-level keys for the block: c1_out="tcp/80", ...; removed afterwards."""
    guests = {guest.name: guest for guest in scene.everyone}
    set_keys = []
    try:
        for name, value in of.items():
            guest, direction = guests[name.split("_")[0]], name.split("_")[1]
            key = _IN if direction == "in" else _OUT
            guest.lxc("config", "set", guest.name, f"{key}={value}")
            set_keys.append((guest, key))
        yield
    finally:
        for guest, key in set_keys:
            guest.lxc("config", "unset", guest.name, key, check=False)


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
            c2.lxc("config", "set", c2.name, f"{_IN}=tcp/8080")
            _expect(scene, scene.c1, {f"tcp/80@{c2.ipv4}": False, f"tcp/8080@{c2.ipv4}": True, f"tcp/8080@{c2.ipv6}": True})
            c2.lxc("config", "unset", c2.name, _IN)
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
                    c2.lxc("config", "device", "set", c2.name, "eth0", f"{_IN}=tcp/{allowed}")
                    scene.dressed(c2)
                    _expect(scene, scene.c1, {
                        f"tcp/{allowed}@{c2.ipv4}": True, f"tcp/{allowed}@{c2.ipv6}": True, f"tcp/{denied}@{c2.ipv4}": False,
                    })
        finally:
            c2.lxc("config", "device", "unset", c2.name, "eth0", _IN)
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
            c3.lxc("config", "unset", c3.name, _IN)
            _expect(scene, scene.c1, {f"tcp/5600@{c3.ipv4}": False})
            # The client says so by itself, 10 s after its last echo.
            said = json.loads(list(talking.lines())[-1])
    check(said["error"] is not None, f"the connection went on without its service: {said}")
