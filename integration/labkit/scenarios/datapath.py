"""What a container may try against others and the host, and what must work all the while."""

import contextlib
import json
import pathlib
import subprocess
import tempfile

from labkit import fleet, settings
from labkit.console import LabError, table
from labkit.scenarios import attacks, attacks_fabric, attacks_ip, attacks_past, attacks_sums, frames, legitimate, state
from labkit.scenarios.attacks import FLOW_PORT, HOST_PORT, ONE_WAY_PORT, OPEN_PORT, PREFIX, Catalogue, End
from labkit.scenarios.registry import check, scenario
from labkit.scenarios.scene import until_ready

_PROBE = "/var/tmp/lxmesh-lab-probe.py"
_PLAN = "/var/tmp/lxmesh-lab-plan.json"
_KILLED = "/var/tmp/lxmesh-lab-killed"
_FIREWALL = "/etc/lxmesh/firewall.nft"
_FLOODS = "/var/tmp/lxmesh-lab-floods"
_IN, _OUT = "user.lxmesh.in_services", "user.lxmesh.out_services"


def _end(nic):
    return End(nic.mac, nic.ipv4, nic.ipv6, nic.link_local)


@contextlib.contextmanager
def _configured(*settings):
    """(guest, {key: value}) for the block, one command per guest."""
    try:
        for guest, keys in settings:
            guest.client("config", "set", guest.name, *(f"{key}={value}" for key, value in keys.items()))
        yield
    finally:
        for guest, keys in settings:
            script = ";".join(f"{guest.host.manager.client} config unset {guest.name} {key}" for key in keys)
            guest.host.sh(script, check=False)


class _Stage:
    """Eve (c1), near (c101, same host) and far (c2), with services between them."""

    def __init__(self, scene):
        self.scene = scene
        self.eve, self.near, self.far = scene.c1, scene.extra, scene.c2
        self.host = scene.c1.host
        # The host's own filter, as users have it.
        for host in (self.host, self.far.host):
            host.sh("nft list chain inet lxmesh_host filter_in")
        self.before = state.read(self.host)
        mac = self.before.links[state.SVI]["address"]
        self.gateway = End(mac, fleet.GATEWAY4, fleet.GATEWAY6, state.link_local_of(mac))
        self.catalogue = Catalogue(
            _end(self.eve.nic()), _end(self.near.nic()), _end(self.far.nic()), self.gateway,
            self.host.address, self.far.host.address,
        )

    @contextlib.contextmanager
    def services(self):
        out = f"tcp/80 tcp/179 udp/53 udp/4789 udp/{OPEN_PORT} udp/{ONE_WAY_PORT} udp/{HOST_PORT} udp/{fleet.LISTED_PORT} sctp/5400 udp/33434"
        come_in = f"tcp/80 udp/53 udp/{OPEN_PORT} sctp/5400"
        with _configured(
            (self.eve, {_OUT: out, _IN: come_in}), (self.near, {_OUT: f"udp/{OPEN_PORT}", _IN: come_in}), (self.far, {_IN: come_in}),
        ):
            scene = self.scene

            def probe():
                looks = scene.on_all(state.read, [self.host, self.far.host])
                wanted = [(guest, looks[guest.host.name].sets["in_svc"]) for guest in (self.eve, self.near, self.far)]
                return [f"{guest.label} has no services yet" for guest, found in wanted
                        if not any(one.startswith(f"{guest.nic().port} . tcp . 80") for one in found)]

            scene.until("services are there", probe)
            with self._no_checksums():
                yield

    @contextlib.contextmanager
    def _no_checksums(self):
        """Whatever leaves the host, and whatever reaches near, has its sums computed, as by a network card
        without offload: only there is a deferred checksum written."""
        switch = f"for i in host0 {self.near.nic().port}; do ethtool -K $i tx {{0}} || exit 1; done"
        try:
            self.host.sh(switch.format("off"))
            yield
        finally:
            self.host.sh(switch.format("on"))

    def plan(self, attempts, **more):
        near, far = self.catalogue.near, self.catalogue.far
        return {
            "prefix": PREFIX, "attempts": attempts, "times": 2, "from": self.eve.name, "far": self.far.name,
            "host_port": HOST_PORT, "echo_port": OPEN_PORT, "echoing": [self.near.name],
            "eyes": {
                "eve": [self.eve.name, "eth0", "in"], "near": [self.near.name, "eth0", "in"],
                "host": ["", state.SVI, "in"], "tunnel": ["", state.TUNNEL, "out"],
            },
            "far_eyes": {"far": [self.far.name, "eth0", "in"], "far host": ["", state.SVI, "in"]},
            "flows": [[self.near.name, FLOW_PORT, address, OPEN_PORT] for address in far.addresses],
        } | more

    def run(self, plan):
        """The attempts' results, with what was seen on the other host."""
        text = json.dumps(plan)
        program = pathlib.Path(__file__).with_name("probe.py").read_bytes()

        def push(host):
            host.push(program, _PROBE)
            host.push(text, _PLAN)

        self.scene.on_all(push, [self.host, self.far.host])
        with until_ready(self.far.host, ["python3", _PROBE, "watch", _PLAN]) as watching:
            results = json.loads(self.host.run(["python3", _PROBE, "run", _PLAN], timeout=240).stdout)
            seen = json.loads(watching.stop().splitlines()[-1])
        for number, places in seen.items():
            results[int(number)]["arrived"] |= places
        return results


@contextlib.contextmanager
def _translated(stage):
    """What goes to a certain address is sent to the other supervisor, as an operator might have it."""
    rules = attacks_fabric.TRANSLATE.format(translated=attacks_fabric.TRANSLATED, target=stage.far.host.address)
    stage.host.run(["nft", "-f", "-"], input=rules)
    try:
        yield
    finally:
        stage.host.run(["nft", "delete", "table", "ip", "lxmesh_lab"])


def _complaints(attack, result):
    """What is wrong with one attack's result, as texts."""
    for place, count in result["arrived"].items():
        if place not in attack.may:
            yield f"{count} frames arrived: {place} {result['sample']}".rstrip()
    for name in attack.counters:
        if not result["rose"].get(name):
            yield f"the counter {name} did not rise, only {result['rose']}"
    for name in result["lost"]:
        yield f"what must pass did not: {name}"
    if attack.judge and (text := attack.judge(result)):
        yield text


@scenario("attacks")
def all_attacks(scene):
    """everything that a container tries against others and the host is stopped and counted; the rest goes on"""
    stage = _Stage(scene)
    catalogue = stage.catalogue
    for theme in (attacks.identity, attacks.arp, attacks.neighbour_discovery, attacks_ip.icmp, attacks_ip.control,
                  attacks_ip.tags_and_types, attacks_ip.services, attacks_past.dhcp,
                  lambda catalogue: attacks_past.arp(catalogue, stage.eve.nic().port),
                  lambda catalogue: attacks_fabric.hosts(catalogue, scene.lab.reflectors[0].address),
                  attacks_ip.destinations, attacks_ip.tables, attacks_sums.deferred_checksums):
        theme(catalogue)
    with stage.services(), _translated(stage):
        results = stage.run(stage.plan([attack.plan() for attack in catalogue.attacks]))
        results += _from_outside(stage)
        results += _skipping_the_check(stage)
        own, near = catalogue.own, catalogue.near
        tracked = stage.host.sh(f"grep ' src={near.ipv4} .* sport={FLOW_PORT} dport={OPEN_PORT} ' /proc/net/nf_conntrack; "
                                f"conntrack -D -s {own.ipv4} > /dev/null 2>&1; conntrack -D -f ipv6 -s {own.ipv6} > /dev/null 2>&1; true")
    rows = [("ATTACK", "ORIGINAL", "HERE", "FRAMES", "COUNTED AS")]
    failures = []
    for attack, result in zip(catalogue.attacks, results):
        wrong = list(_complaints(attack, result))
        failures += [f"{attack.name} ({attack.text}): {text}" for text in wrong]
        counted = ", ".join(name for name in sorted(result["rose"], key=result["rose"].get, reverse=True))
        sent = 2 * (len(attack.frames) + len(attack.deferred)) + sum(flood["count"] for flood in attack.floods)
        if attack.deferred and not attack.counters:
            counted = "deferred checksums"
        rows.append((attack.name, attack.original, "FAILED" if wrong else "stopped", sent, counted or "(the bridge itself)"))
    in_zone = bool(tracked) and all("zone=100 " in line for line in tracked.splitlines())
    rows.append(("ct-leak", "succeeded", "stopped" if in_zone else "FAILED", "-", "flows are tracked in their network's zone"))
    rows.append(("stale-ct", "succeeded", "stopped", "-", "scenario service-withdrawn"))
    for line in table(rows).splitlines():
        scene.note(line)
    # (the last sends the same once more)
    kinds = sum(len(attack.frames) + len(attack.deferred) + len(attack.floods) for attack in catalogue.attacks[:-1])
    scene.note(f"{kinds} kinds of frames")
    documented = f"sends {kinds} kinds of frames"
    if documented not in (settings.REPOSITORY / "docs/security.md").read_text():
        failures.append(f"docs/security.md does not say that `attacks` {documented}")
    slowest = sorted(zip(results, catalogue.attacks), key=lambda pair: -pair[0]["took"])[:4]
    scene.note(f"{sum(one['took'] for one in results):.0f} s, longest: " + ", ".join(f"{a.name} {r['took']} s" for r, a in slowest))
    if not in_zone:
        failures.append(f"ct-leak: the flow of near and far is not tracked in zone 100: {tracked}")
    check(not failures, lambda: "\n  ".join(["", *failures]))
    _nothing_learned(stage)


def _from_outside(stage):
    """The result of an attack by somebody who is routed to near; it joins the catalogue."""
    c = stage.catalogue
    try:
        stage.host.sh(legitimate.MAKE_STRANGER)
        router, stranger = (json.loads(stage.host.sh(words).strip())[0]["address"] for words in (
            "ip -j link show dev lab-ext0", f"ip -n {legitimate.STRANGER[1:]} -j link show dev eth0"))
        own = End(stranger, legitimate.STRANGER4, legitimate.STRANGER6, state.link_local_of(stranger))
        near, far, gateway = (attacks_past.behind(end, router) for end in (c.near, c.far, c.gateway))
        alone = Catalogue(own, near, far, gateway, c.underlay, c.far_underlay)
        attack = attacks_past.from_outside(alone, router)
        plan = stage.plan([attack.plan()], **{"from": legitimate.STRANGER})
        plan["eyes"]["eve"] = [legitimate.STRANGER, "eth0", "in"]
        result = stage.run(plan)
    finally:
        stage.host.sh(legitimate.REMOVE_STRANGER)
    c.attacks.append(attack)
    return result


def _skipping_the_check(stage):
    """The result of an attack that all others would suffer from; it becomes the catalogue's last."""
    c = stage.catalogue
    alone = Catalogue(c.own, c.near, c.far, c.gateway, c.underlay, c.far_underlay)
    attack = attacks_sums.past_the_check(alone)
    try:
        stage.host.run(["sh", "-c", attacks_sums.TURN_ASIDE, "turn", stage.eve.name])
        result = stage.run(stage.plan([attack.plan()]))
    finally:
        stage.host.run(["sh", "-c", attacks_sums.TURN_BACK, "turn", stage.eve.name], check=False)
    c.attacks.append(attack)
    return result


def _floods(c):
    """{name: frame and the place of its number}: what eve sends as fast as she can."""
    own, near, far, gateway = c.own, c.near, c.far, c.gateway
    join = frames.icmp6(own.link_local, "ff02::16", 143, bytes(3) + b"\x01" + b"\x04\0\0\0" + frames.six("ff1e::1:0"))
    router_alert = frames.extension(0, frames.ICMP6, b"\x05\x02\0\0\x01\0")[1]
    request = frames.arp(1, own.mac, own.ipv4, "00:00:00:00:00:00", "10.77.0.0")
    solicit = bytes(4) + frames.six("2001:db8:ffff::")
    lease = frames.dhcp4(1, own.mac, 0x4C580000)
    return {
        "SYN": (c.packet(far.mac, own.ipv4, far.ipv4, frames.TCP, frames.tcp(own.ipv4, far.ipv4, 10000, 80)), 34, 50),
        "UDP flows": (c.datagram(near.mac, own.ipv4, near.ipv4, 53, b"", source_port=10000), 34, 40),
        "ARP": (frames.ethernet(frames.BROADCAST, own.mac, frames.ARP, request), 40, 0),
        "ND": (c.nd(gateway.mac, own.ipv6, gateway.ipv6, 135, solicit), 76, 56),
        "DHCP": (c.datagram(frames.BROADCAST, "0.0.0.0", "255.255.255.255", 67, lease, source_port=68), 48, 40),
        "MLD joins": (c.packet("33:33:00:00:00:16", own.link_local, "ff02::16", 0, router_alert + join, hops=1), 84, 64),
    }


@scenario("floods", usual=False)
def floods(scene):
    """while one container floods (SYN, UDP, ARP, ND, DHCP, MLD), another of its host goes on connecting: the figures"""
    stage = _Stage(scene)
    near, far = stage.catalogue.near, stage.catalogue.far
    lease = stage.catalogue.datagram(frames.BROADCAST, "0.0.0.0", "255.255.255.255", 67, frames.dhcp4(1, near.mac, 0),
                                     source_mac=near.mac, source_port=68)
    plan = {
        "from": stage.eve.name, "innocent": stage.near.name, "target": [far.ipv4, 5600], "seconds": 4,
        "floods": {name: {"frame": frame.hex(), "offset": offset, "check": check}
                   for name, (frame, offset, check) in _floods(stage.catalogue).items()},
        "request": lease.hex(), "answer": b"\x02\x01\x06\0".hex(),
    }
    for name in ("probe.py", "floods.py"):
        stage.host.push(pathlib.Path(__file__).with_name(name), f"{_FLOODS}/{name}")
    stage.host.push(json.dumps(plan), f"{_FLOODS}/plan.json")
    allowed = ((stage.eve, {_OUT: "tcp/80 udp/53"}), (stage.far, {_IN: "tcp/80 tcp/5600"}),
               # On a fast machine near makes more connections than a NIC may by default.
               (stage.near, {_OUT: "tcp/5600", _IN: "udp/53", "user.lxmesh.limits.new_connections": "10000"}))
    with _configured(*allowed), scene.serving(stage.far, "tcp/5600"):
        def probe():
            found = scene.connects(stage.near, f"tcp/5600@{far.ipv4}")
            return [f"{target}: {yes}" for target, yes in found.items() if yes != "yes"]

        scene.until("near reaches far", probe)
        told = json.loads(stage.host.run(["python3", f"{_FLOODS}/floods.py", f"{_FLOODS}/plan.json"], timeout=300).stdout)
    rows = [("FLOOD", "FRAMES/S", "CONNECTIONS/S", "FAILED", "SLOWEST MS", "DHCP ANSWERED", "COUNTED AS")]
    for name, one in told.items():
        rows.append((name, one["sent_per_s"], one["connections_per_s"], one["failed"], one["slowest_ms"],
                     f"{one['leases']}/{one['asked']}", ", ".join(sorted(one["rose"], key=one["rose"].get, reverse=True)[:2])))
    for line in table(rows).splitlines():
        scene.note(line)
    bad = [name for name, one in told.items() if one["failed"] or not one["connections_per_s"] or one["leases"] < one["asked"]]
    check(not bad, lambda: f"near could not go on during {', '.join(bad)}: " + json.dumps({name: told[name] for name in bad}))
    silent = [name for name in ("ARP", "ND", "DHCP", "MLD joins") if not told[name]["rose"]]
    check(not silent, lambda: f"nothing of it was dropped: {silent}: {told}")


def _nothing_learned(stage):
    """What the host knows of neighbours and MACs is as before."""
    after = state.read(stage.host)
    for what, old, new in (("neighbours", stage.before.our_neighbours(), after.our_neighbours()),
                           ("FDB", stage.before.our_fdb(), after.our_fdb())):
        check(old == new, f"{what} changed: {old ^ new}")
    poisoned = [entry for entry in after.neighbours
                if entry["dst"] in (attacks.ABSENT4, attacks.ABSENT6, "fe80::dead") and entry.get("lladdr")]
    check(not poisoned, f"the host believed an address of nobody: {poisoned}")


@scenario("legitimate")
def all_legitimate(scene):
    """DHCP, RA, DAD, traceroute, path MTU, fragments, services, host and strangers: all pass"""
    stage = _Stage(scene)
    catalogue = stage.catalogue
    for theme in (legitimate.dhcp, legitimate.neighbours, legitimate.errors, legitimate.conversations, legitimate.fabric):
        theme(catalogue)
    with stage.services():
        try:
            stage.host.sh(legitimate.MAKE_STRANGER)
            plan = stage.plan([one.plan() for one in catalogue.attacks], echoing=[stage.near.name, legitimate.STRANGER])
            results = stage.run(plan)
        finally:
            stage.host.sh(legitimate.REMOVE_STRANGER)
    rows = [("WHAT", "ORIGINAL", "HERE", "SHOWS")]
    failures = []
    for one, result in zip(catalogue.attacks, results):
        wrong = list(_complaints(one, result))
        failures += [f"{one.name} ({one.text}): {text}" for text in wrong]
        rows.append((one.name, one.original, "FAILED" if wrong else "works", one.text))
    for line in table(rows).splitlines():
        scene.note(line)
    check(not failures, lambda: "\n  ".join(["", *failures]))


_STRAY = "lab-stray"
_MAKE_STRAY = f"""\
set -eu
systemctl stop lxmesh-agent
ip netns add {_STRAY}
ip link add {_STRAY} type veth peer name eth0 netns {_STRAY}
ip link set {_STRAY} master {state.SVI} up
ip -n {_STRAY} addr add "$1/24" dev eth0
ip -n {_STRAY} -6 addr add "$2/64" dev eth0 nodad
ip -n {_STRAY} link set eth0 up
shift 2
while [ $# -gt 0 ]; do ip -n {_STRAY} neigh add "$1" lladdr "$2" dev eth0; shift 2; done
"""
_PING = 'for t; do ping -n -q -c 2 -i 0.3 -W 1 "$t" > /dev/null 2>&1 && echo "$t" & done; wait'


def _program_with_hooks():
    """The agent as tests build it, without what only a debugger reads; built unless it is there already."""
    build = ["cargo", "build", "--quiet", "--locked", "--features", "test-hooks", "--bin", "lxmesh"]
    meta = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
    said = [subprocess.run(command, cwd=settings.REPOSITORY, capture_output=True, text=True) for command in (build, meta)]
    for done in said:
        if done.returncode != 0:
            raise LabError(f"{' '.join(done.args)} failed:\n{done.stderr}")
    program = pathlib.Path(json.loads(said[1].stdout)["target_directory"]) / "debug" / "lxmesh"
    with tempfile.TemporaryDirectory() as directory:
        small = pathlib.Path(directory) / "lxmesh"
        subprocess.run(["strip", "-o", str(small), str(program)], check=True)
        return small.read_bytes()


@scenario("killed")
def killed(scene):
    """the agent killed before each thing it writes: packets pass what it leaves only if old and new state allow them"""
    host = scene.c1.host
    for name in ("killed.py", "alone.py", "frames.py"):
        host.push(pathlib.Path(__file__).with_name(name), f"{_KILLED}/{name}")
    host.push(_program_with_hooks(), f"{_KILLED}/lxmesh", "0755")
    try:
        words = ["python3", f"{_KILLED}/killed.py", "--lxmesh", f"{_KILLED}/lxmesh", "--firewall", _FIREWALL]
        said = host.run(["unshare", "--net", "--mount", *words], check=False, timeout=900)
    finally:
        host.sh(f"rm -r {_KILLED}")
    try:
        told = json.loads(said.stdout)
    except ValueError:
        raise LabError(f"killed.py: {said.stdout}{said.stderr}") from None
    states = told["states"]
    scene.note(f"states: {', '.join(f'{what} {count}' for what, count in states.items())}; "
               f"{told['sent']} packets that may not arrive, {told['arrived']} that must")
    check(not told["wrong"], lambda: f"{len(told['wrong'])} wrong:\n" + "\n".join(told["wrong"][:20]))
    # Filters, port, FDB entry, neighbours, groups, routes; a replacement is one transaction.
    for what, least in (("attaching", 8), ("changing", 6), ("taking away", 8), ("replacing the filters", 1)):
        check(states[what] >= least, f"only {states[what]} states of {what}")


@scenario("fail-closed")
def fail_closed(scene):
    """with no agent there, a port that is in no set passes nothing, nor do ports whose sets were flushed"""
    stage = _Stage(scene)
    host, c1 = stage.host, scene.c1
    ends = (stage.catalogue.near, stage.catalogue.far, stage.gateway)
    targets = [address for end in ends for address in end.addresses]
    neighbours = [word for end in ends for address in end.addresses for word in (address, end.mac)]
    flush = "for set; do nft flush set bridge lxmesh $set; done"
    try:
        # A port as an agent leaves it that dies after it made the port join, and before anything else.
        host.run(["sh", "-c", _MAKE_STRAY, "make", *fleet.addresses_of(77), *neighbours])
        check(scene.ping_all(c1, targets) == set(targets), "not even c1 reaches everybody without the agent")
        got = host.run(["ip", "netns", "exec", _STRAY, "sh", "-c", _PING, "ping", *targets]).stdout.split()
        check(not got, f"from a port that is in no set: {got}")
        for sets in (("nic_id4", "nic_id6"), ("nic_macs", "payload_macs"), ("nic_ports",)):
            host.run(["sh", "-c", flush, "flush", *sets])
            got = scene.ping_all(c1, targets)
            check(not got, f"with {' and '.join(sets)} flushed: {got}")
    finally:
        host.sh(f"ip netns del {_STRAY}; ip link del {_STRAY} 2> /dev/null; systemctl start lxmesh-agent")
    scene.reaches(c1, *targets)
