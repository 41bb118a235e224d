"""Who has an address that several claim, on one host and across hosts, and which devices a NIC may name."""

from labkit import fleet
from labkit.scenarios import state
from labkit.scenarios.registry import check, scenario
from labkit.scenarios.scene import AGENT

_NUMBER = 71
_OTHER_NUMBER = 72


def _problems(scene, host):
    return scene.status(host)["problems"]


def _named(scene, host, *words):
    """The status of the host has a problem with all of these words."""

    def probe():
        problems = _problems(scene, host)
        return [] if any(all(word in text for word in words) for text in problems) else [f"{host.name}: {problems}"]

    scene.until(f"{host.name} names {' '.join(words)}", probe)


def _no_problems(scene, *hosts):
    scene.until("no problems", lambda: [text for host in hosts for text in _problems(scene, host)])


def _holders(scene, address):
    """{host: MAC that it takes the address for}."""

    def ask(host):
        entries = host.json(["ip", "-j", "neigh", "show", "to", address, "dev", state.SVI, "nud", "all"])
        return entries[0].get("lladdr") if entries else None

    return scene.on_all(ask)


def _all_know(scene, address, mac):
    scene.until(
        f"all hosts take {address} for {mac}",
        lambda: [f"{name}: {found}" for name, found in _holders(scene, address).items() if found != mac],
    )


@scenario("claims-across-hosts")
def across_hosts(scene):
    """who has an address keeps it, without a ping lost, when an instance on another host claims it; both hosts name that"""
    holder, there = scene.c1, scene.sups[1]
    mac = holder.nic().mac
    with scene.no_ping_lost((scene.c3, holder.ipv4), (scene.extra, holder.ipv6), what="a claim on another host"):
        thief = scene.guest(there, "t71", 1)
        for address in (holder.ipv4, holder.ipv6):
            _named(scene, there, "t71 device eth0", address, mac, scene.sups[0].address)
            _named(scene, scene.sups[0], "c1 device eth0", address, thief.nic().mac, there.address)
        # It is connected all the same, by its own link-local address, and by no other.
        scene.reaches(scene.c3, f"{thief.nic().link_local}%eth0")
        there.run(["systemctl", "restart", AGENT], timeout=120)
        _named(scene, there, "t71 device eth0", holder.ipv4, scene.sups[0].address)
        for address in (holder.ipv4, holder.ipv6):
            _all_know(scene, address, mac)
    for key, address in zip(("ipv4", "ipv6"), fleet.addresses_of(_NUMBER)):
        thief.client("config", "device", "set", "t71", "eth0", f"user.lxmesh.{key}.address={address}")
        _all_know(scene, address, thief.nic().mac)
    _no_problems(scene, *scene.sups)
    scene.remove_guest(thief)


@scenario("claims-passed-on", usual=False)
def passed_on(scene):
    """an address that another host's instance waits for is its own soon after the first one has stopped"""
    first = scene.guest(scene.sups[0], "t72", _NUMBER)
    mac = scene.present(first).mac
    second = scene.guest(scene.sups[1], "t73", _NUMBER)
    _named(scene, scene.sups[1], "t73 device eth0", second.ipv4, mac)
    first.client("stop", "-f", first.name)
    scene.present(second)
    scene.dressed(second)
    scene.reaches(scene.c3, second.ipv4, second.ipv6)
    _no_problems(scene, *scene.sups)
    # Back again: now the other one waits.
    first.client("start", first.name)
    _named(scene, scene.sups[0], "t72 device eth0", first.ipv4, second.nic().mac)
    scene.reaches(scene.c3, second.ipv4, second.ipv6)
    scene.remove_guest(second)
    scene.present(first)
    scene.remove_guest(first)


@scenario("claims-before-bgp")
def before_bgp(scene):
    """what an instance was given while its host had no BGP goes back to who had it as soon as it has"""
    holder, there = scene.c1, scene.sups[1]
    mac = holder.nic().mac
    there.run(["systemctl", "stop", "frr"], timeout=120)
    try:
        scene.until(
            f"{there.name} knows no other host's instance",
            lambda: [f"still {mac}"] if _holders(scene, holder.ipv4)[there.name] else None,
        )
        late = scene.guest(there, "t74", 1)
        scene.until(
            "it is given there",
            lambda: None if _holders(scene, holder.ipv4)[there.name] == late.nic().mac else [str(_problems(scene, there))],
        )
    finally:
        there.run(["systemctl", "start", "frr"], timeout=120)
    _named(scene, there, "t74 device eth0", holder.ipv4, mac, scene.sups[0].address)
    for address in (holder.ipv4, holder.ipv6):
        _all_know(scene, address, mac)
    scene.reaches(scene.c3, holder.ipv4, holder.ipv6)
    scene.remove_guest(late)
    _no_problems(scene, *scene.sups)
    scene.calm(patience=120)


@scenario("claims-after-restart", seldom=True)
def after_restart(scene):
    """an instance that was started earlier and claims another's address has it neither before nor after a restart of the agent"""
    host = scene.sups[1]
    thief = scene.guest(host, "t75", _OTHER_NUMBER)
    scene.present(thief)
    holder = scene.guest(host, "t76", _NUMBER)
    mac = scene.present(holder).mac
    for key, address in (("ipv4", holder.ipv4), ("ipv6", holder.ipv6)):
        thief.client("config", "device", "set", "t75", "eth0", f"user.lxmesh.{key}.address={address}")
    for restart in (False, True):
        if restart:
            host.run(["systemctl", "restart", AGENT], timeout=120)
        _named(scene, host, "t75 device eth0", holder.ipv4, "t76 device eth0")
        for address in (holder.ipv4, holder.ipv6):
            _all_know(scene, address, mac)
        scene.present(holder)
    scene.remove_guest(thief)
    _no_problems(scene, host)
    scene.remove_guest(holder)


@scenario("host-names", seldom=True)
def host_names(scene):
    """a device that is none of an instance is left as it is, whatever LXD says whose it is, and named"""
    host = scene.sups[1]
    guest = scene.guest(host, "t77", _NUMBER)
    port = scene.present(guest).port
    links = host.json(["ip", "-j", "addr", "show"])
    underlay = [link["ifname"] for link in links if any(a["local"] == host.address for a in link["addr_info"])][0]
    host.sh("ip link add lab-own type veth peer name lab-own2; sysctl -qw net.ipv6.conf.lab-own.disable_ipv6=1; ip link set lab-own up; ip link set lab-own2 up")
    names = {
        "lo": "neither a veth", underlay: "an uplink of the host", state.SVI: "neither a veth",
        state.SVI.replace("svi-", "vxlan-"): "neither a veth", "lab-own": "neither a veth",
    }
    look = f"for i in {' '.join(names)}; do ip -o -d link show $i | sed 's/[a-z_]*_timer *[0-9.]*//g'; ip -o addr show $i; done"
    before = host.sh(look)
    try:
        with scene.no_ping_lost((scene.c1, scene.c2.ipv4), (scene.c2, scene.c3.ipv6), what="names of the host's devices"):
            for name, why in names.items():
                guest.client("config", "set", "t77", f"volatile.eth0.host_name={name}")
                _named(scene, host, "t77 device eth0", f"its device {name} is", why)
                # The device that it had is out of its bridge.
                master = host.json(["ip", "-j", "link", "show", port])[0].get("master")
                check(master is None, f"{port} is still in {master}")
            check(host.sh(look) == before, f"changed:\n{before}\n{host.sh(look)}")
            host.run(["systemctl", "restart", AGENT], timeout=120)
            _named(scene, host, "t77 device eth0", "its device lab-own is")
            check(host.sh(look) == before, f"changed by a new agent:\n{before}\n{host.sh(look)}")
    finally:
        guest.client("config", "set", "t77", f"volatile.eth0.host_name={port}", check=False)
        host.sh("ip link del lab-own", check=False)
    scene.present(guest)
    scene.reaches(scene.c1, guest.ipv4)
    scene.remove_guest(guest)
