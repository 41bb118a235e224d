"""The hosts' own network by IPv6: tunnels and sessions."""

import contextlib

from labkit import fleet, reach
from labkit.console import LabError
from labkit.platforms import TUNNELS_6
from labkit.scenarios.registry import Failure, check, scenario
from labkit.scenarios.scene import AGENT

_DROP_IN = "/etc/systemd/network/10-underlay.network.d/lab-six.conf"


def _six(address):
    """198.51.100.11 as 2001:db8:ffff::11."""
    return f"2001:db8:ffff::{address.rpartition('.')[2]}"


# Under emulation each host makes its tunnels and sessions anew, all at the same time.
_APPLY_S = 600


def _configure(scene, text):
    """Another host file everywhere, applied on all hosts at once: no session of before can stay."""

    def one(host):
        host.push(text, fleet.HOST_FILE)
        host.run(["lxmesh-gen", "apply"], timeout=_APPLY_S)

    scene.on_all(one, scene.lab.hosts)


@contextlib.contextmanager
def _underlay_6(scene):
    before = fleet.host_file(scene.lab.plan)
    after = before
    for host in scene.lab.hosts:
        after = after.replace(f'"{host.address}"', f'"{_six(host.address)}"')

    def add(host):
        host.push(f"[Network]\nAddress={_six(host.address)}/64\n", _DROP_IN)
        host.run(["networkctl", "reload"])
        host.wait_for(f"ip -6 addr show dev host0 | grep -q {_six(host.address)}")

    def back():
        scene.on_all(lambda host: host.wait_for("! systemctl --quiet is-active 'lxmesh-gen-guard-*'", _APPLY_S), scene.lab.hosts)
        _configure(scene, before)
        scene.on_all(lambda host: host.sh(f"rm -f {_DROP_IN}; networkctl reload"), scene.lab.hosts)
        scene.calm()

    try:
        scene.on_all(add, scene.lab.hosts)
        _configure(scene, after)
        yield
    except BaseException:
        # what is told is the first thing that failed
        with contextlib.suppress(LabError, Failure):
            back()
        raise
    back()


@scenario("underlay-6", needs=TUNNELS_6)
def underlay_6(scene):
    """hosts whose own network is IPv6: sessions and tunnels come up, everybody reaches everybody, and no tunnel's packet is IPv4"""
    with _underlay_6(scene):
        reached = reach.until_complete(scene.lab, timeout_s=180)
        check(all(reached.values()), lambda: f"not everybody reaches everybody:\n{reach.as_table(reached)}")
        scene.calm()
        counting = ["tcpdump", "-n", "-l", "-i", "ul", "udp", "port", "4789"]
        with scene.lab.outside.running(counting) as wire:
            scene.reaches(scene.c1, scene.c2.ipv4, scene.c2.ipv6)
            scene.reaches(scene.c3, scene.extra.ipv4, scene.extra.ipv6)
            seen = [line for line in wire.stop().splitlines() if "VXLAN" in line]
        four = [line for line in seen if " IP6 " not in line]
        check(seen and not four, lambda: f"of {len(seen)} packets of tunnels {len(four)} are IPv4: {four[:3]}")
        scene.note(f"{len(seen)} packets of tunnels seen, all of IPv6: {seen[0]}")
        # the agent starts on such an underlay, too
        scene.sups[0].run(["systemctl", "restart", AGENT])
        scene.calm()
        scene.reaches(scene.c1, scene.c2.ipv4, scene.c2.ipv6)
