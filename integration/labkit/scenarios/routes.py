"""Host routes in the tables that the host file names, and networks inside a VRF."""

import json
import pathlib

from labkit import fleet
from labkit.console import LabError
from labkit.scenarios.registry import check, scenario

VRF = "vrf-green"
VRF_TABLE = 1300  # 1000 and the VNI
MAIN_TABLE = 254
_ALONE = "/var/tmp/lxmesh-lab-alone"
NAMED_TABLE = 2400


def _host_routes(host, table):
    """{destination: device} of the agent's routes in a table."""
    text = host.sh(
        f"ip -j route show table {table} proto 242 2>/dev/null; echo;"
        f"ip -j -6 route show table {table} proto 242 2>/dev/null; exit 0"
    )
    lists = [json.loads(line) for line in text.splitlines() if line.strip()]
    return {route["dst"]: route["dev"] for routes in lists for route in routes}


def _until_routes(scene, host, table, wanted):
    def probe():
        found = _host_routes(host, table)
        return [] if found == wanted else [f"{host.name}, table {table}: {found}, not {wanted}"]

    scene.until(f"{host.name}: host routes in table {table}", probe)


def _until_announced(scene, host, wanted):
    def probe():
        table = json.loads(host.sh("vtysh -c 'show bgp ipv4 unicast json'"))
        found = set(table.get("routes", {}))
        return [] if found == wanted else [f"{host.name} announces {found}, not {wanted}"]

    scene.until(f"{host.name}: what routers are told", probe)


@scenario("host-routes")
def host_routes(scene):
    """an instance's host routes are in the main, the VRF's or the named table while it runs, and in no other, and announced"""
    host = scene.sups[0]
    tables = {"blue": MAIN_TABLE, "green": VRF_TABLE, "amber": NAMED_TABLE}
    guests = {
        network: scene.guest(host, f"route-{network}", 140, network=network) for network in tables
    }
    for network, table in tables.items():
        guest = guests[network]
        device = f"svi-{network}"
        _until_routes(scene, host, table, {guest.ipv4: device, guest.ipv6: device})
    announced = {f"{guests[network].ipv4}/32" for network in ("blue", "amber")}
    _until_announced(scene, host, announced)
    # what is asked for nowhere is nowhere
    everywhere = {**_host_routes(host, MAIN_TABLE), **_host_routes(host, "all")}
    strangers = [address for address in (scene.c1.ipv4, scene.c1.ipv6) if address in everywhere]
    check(not strangers, f"host routes of a network that has none: {strangers}")
    for guest in guests.values():
        guest.client("stop", "-f", guest.name, timeout=120)
    for table in tables.values():
        _until_routes(scene, host, table, {})
    _until_announced(scene, host, set())


@scenario("vrf")
def vrf(scene):
    """instances of a network in a VRF get addresses, reach each other across hosts and the gateway, and nobody else"""
    one, two = scene.sups[0], scene.sups[1]
    here = scene.guest(one, "vrf-here", 141, network="green")
    there = scene.guest(two, "vrf-there", 142, network="green")
    for guest in (here, there):
        scene.dressed(guest)
    four, six = fleet.PREFIXES["green"]
    scene.reaches(here, there.ipv4, there.ipv6, f"{four}.1", f"{six}1")
    scene.reaches(there, here.ipv4, here.ipv6, f"{four}.1", f"{six}1")
    # The supervisor reaches them from within the VRF ...
    for address in (here.ipv4, here.ipv6):
        said = one.run(["ping", "-n", "-q", "-c", "2", "-i", "0.3", "-W", "3", "-I", VRF, address], check=False)
        check(said.returncode == 0, f"{one.name} does not reach {address} from {VRF}: {said.stdout}{said.stderr}")
    # ... and the VRF has no way out: neither to the underlay nor to another network.
    for target in (two.address, scene.c1.ipv4, scene.c1.ipv6):
        said = one.run(["ip", "route", "get", target, "vrf", VRF], check=False)
        check(
            said.returncode != 0 and ("unreachable" in said.stderr or "ermission denied" in said.stderr.lower()
                                      or "prohibit" in said.stdout + said.stderr),
            f"{one.name}: {VRF} has a route to {target}: {said.stdout}{said.stderr}",
        )
    answered = scene.ping_all(here, [two.address, scene.c1.ipv4, scene.c1.ipv6])
    check(not answered, f"{here.label} reaches {answered} out of its VRF")


def _alone(scene, program, *more):
    """What a program that stands alone has seen, with a host and an agent of its own."""
    host = scene.c1.host
    for name in (program, "alone.py", "frames.py"):
        host.push(pathlib.Path(__file__).with_name(name), f"{_ALONE}/{name}")
    try:
        command = ["unshare", "--net", "--mount", "python3", f"{_ALONE}/{program}", "--lxmesh", "/usr/bin/lxmesh", *more]
        said = host.run(command, check=False, timeout=300)
    finally:
        host.sh(f"rm -r {_ALONE}")
    try:
        told = json.loads(said.stdout)
    except ValueError:
        raise LabError(f"{program}: {said.stdout}{said.stderr}") from None
    scene.note(f"{program}: {len(told['seen'])} looks")
    return told


@scenario("equal-addresses")
def equal_addresses(scene):
    """two networks with the same addresses: what an instance begins by its gateway is nobody else's, and ends with its service"""
    told = _alone(scene, "equal.py")
    # Of each family: one or two gateways, and four of each of the two NICs.
    check(len(told["seen"]) == 19, f"only {told['seen']}")
    check(not told["wrong"], lambda: "\n  ".join(["", *told["wrong"]]))


@scenario("fabric-addresses")
def fabric_addresses(scene):
    """what instances send to hosts of the fabric, routed or translated, arrives only if the host file opens it or it answers"""
    _fabric(scene, "4", 419)


@scenario("fabric-addresses-6", usual=False)
def fabric_addresses_6(scene):
    """the same over an IPv6 underlay"""
    _fabric(scene, "6", 373)


def _fabric(scene, family, looks):
    told = _alone(scene, "fabric.py", "--family", family)
    check(len(told["seen"]) == looks, f"{len(told['seen'])} looks of {looks}")
    check(not told["wrong"], lambda: "\n  ".join(["", *told["wrong"]]))
