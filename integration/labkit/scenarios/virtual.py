"""Virtual machines: their taps, and their moves while they run, with the filters in force.

LXD and Incus run no virtual machine without KVM. What they would say of one was read in their sources (Incus:
`device/nic_p2p.go`, `device/device_utils_network.go`, `instance/drivers/driver_qemu.go`), and a proxy puts it into the record of a
container that is stopped. On the tap, which is made as they make it, is what asks for an address and answers ARP and pings.
"""

import contextlib
import json
import time

from labkit.platforms import ALONE
from labkit.scenarios import state
from labkit.scenarios.lxd_faults import PROXY_DIRECTORY, behind_proxy
from labkit.scenarios.move import only_there
from labkit.scenarios.registry import check, scenario
from labkit.scenarios.scene import Guest
from labkit.settings import REPOSITORY

_NAME, _NUMBER, _MAC = "vm1", 61, "00:16:3e:00:00:61"
_PROGRAM = "/var/tmp/lxmesh-lab-guest.py"
# What two hosts claim each claims again after two minutes at the latest.
_CLAIMED_AGAIN_S = 240
_RUNNING, _FROZEN = ("Running", 103), ("Frozen", 110)


class _Tap:
    """A tap of the machine on a host, and what is behind it."""

    def __init__(self, machine, host, *words):
        self.host = host
        self.name = f"tapvm{host.name}"
        self._machine = machine
        machine.ends.callback(host.sh, f"ip link delete {self.name}; {self.signal('KILL')}", check=False)
        host.sh(f"ip tuntap add dev {self.name} mode tap multi_queue && ip link set {self.name} up")
        self._guest = host.start(["python3", _PROGRAM, self.name, _MAC, machine.ipv4, *words])
        self.lines = self._guest.lines()
        machine.ends.callback(self.delete)
        line = next(self.lines, "")
        check(line == "open\n", f"{host.name}: the guest said {line!r}")

    def signal(self, name):
        return f"pkill -{name} -f '^python3 {_PROGRAM} {self.name} '"

    def delete(self):
        """As when QEMU has ended and the daemon removes the device."""
        self.host.sh(f"ip link delete {self.name}; {self.signal('KILL')}", check=False)
        self._guest.stop()

    def nic(self):
        machine = self._machine
        return state.Nic(self.host.name, machine.label, self.name, _MAC, machine.ipv4, machine.ipv6)


class _Machine(Guest):
    """A virtual machine: on each of two hosts, or with one record in their cluster."""

    def __init__(self, scene, guest, hosts):
        super().__init__(scene, hosts[0], guest.name, guest.ipv4, guest.ipv6)
        self.hosts = hosts
        self.clustered = scene.lab.platform.clustered
        self.tap = None
        # what is to be undone
        self.ends = None

    def nic(self, device="eth0"):
        return self.tap.nic()

    def runs_on(self, tap):
        self.host, self.tap = tap.host, tap

    def record(self, host, status=_RUNNING, device=None, location=None):
        """The script after which a host's daemon has this record; in a cluster `location` has the machine, by default
        this host. Without a status there is no such machine."""
        record = None
        if status:
            text, code = status
            config = {"volatile.eth0.host_name": device, "volatile.eth0.hwaddr": _MAC}
            record = {"type": "virtual-machine", "status": text, "status_code": code, "config": config}
            if self.clustered:
                record["location"] = (location or host).name
        return f"""\
cat > {PROXY_DIRECTORY}/records.new << 'end'
{json.dumps({self.name: record})}
end
mv {PROXY_DIRECTORY}/records.new {PROXY_DIRECTORY}/records
"""

    def event(self, host, action):
        """The script by which a host's daemon tells of something that this host did."""
        source = f"/1.0/instances/{self.name}?project=default"
        event = {"type": "lifecycle", "project": "default", "metadata": {"action": action, "source": source, "name": self.name}}
        if self.clustered:
            event["location"] = host.name
        return f"""\
cat >> {PROXY_DIRECTORY}/events << 'end'
{json.dumps(event)}
end
"""

    def tell(self, host, action, **record):
        """The host's daemon has another record, and tells of it; in a cluster all members do."""
        script = self.record(host, **record) + self.event(host, action)
        self.everywhere(host, script)

    def everywhere(self, host, script):
        self.scene.on_all(lambda one: one.sh(script), self.hosts if self.clustered else [host])


@contextlib.contextmanager
def _machine(scene):
    """A machine that no daemon knows yet."""
    hosts = scene.sups[:2]
    homes = hosts[:1] if scene.lab.platform.clustered else hosts
    guests = [scene.guest(host, _NAME, _NUMBER, start=False, mac=_MAC) for host in homes]
    content = (REPOSITORY / "integration/frr/guest.py").read_bytes()
    for host in hosts:
        host.push(content, _PROGRAM, "0755")
    machine = _Machine(scene, guests[0], hosts)
    with behind_proxy(scene, hosts[0]), behind_proxy(scene, hosts[1]):
        with contextlib.ExitStack() as ends:
            for host in hosts:
                machine.tell(host, "instance-updated", status=None)
                ends.callback(machine.tell, host, "instance-deleted", status=None)
            machine.ends = ends
            yield machine
        # zebra may leave its own entry on a tunnel behind, which leads nowhere without one of the bridge
        for host in scene.sups if machine.tap else []:
            only_there(scene, machine.tap.nic(), host)
    for guest in guests:
        scene.remove_guest(guest)


def _begin(machine, *words):
    """It runs on the first host."""
    host = machine.hosts[0]
    tap = _Tap(machine, host, *words)
    machine.runs_on(tap)
    machine.tell(host, "instance-started", device=tap.name)
    machine.scene.present(machine)
    return tap


def _watchers(scene):
    """Containers of the first, the second and the third host."""
    return (scene.extra, scene.c2, scene.c3)


@scenario("vm-tap", seldom=True)
def vm_tap(scene):
    """a tap as of a virtual machine (what the daemon says is replayed): address and MTU by DHCP, pings from all hosts, none with another's address; withdrawn whole"""
    with _machine(scene) as machine:
        tap = _begin(machine, "dhcp")
        lease = next(tap.lines, "").split()
        mtu = scene.c1.place.run(["cat", "/sys/class/net/eth0/mtu"]).stdout.strip()
        check(lease == ["lease", machine.ipv4, mtu], f"by DHCP: {lease}, not {machine.ipv4} and the MTU {mtu}")
        for watcher in _watchers(scene):
            scene.reaches(watcher, machine.ipv4)

        def spoofed():
            listed = json.loads(tap.host.sh("nft -j list counter bridge lxmesh spoofed_source"))
            return next(one["counter"]["packets"] for one in listed["nftables"] if "counter" in one)

        before = spoofed()
        tap.host.sh(tap.signal("USR1"))

        def counted():
            return [] if spoofed() == before + 20 else [f"{spoofed() - before} of 20 with another's address"]

        scene.until("what has another's address is dropped", counted)
        scene.reaches(scene.c3, machine.ipv4)
        nic = tap.nic()
        machine.tell(tap.host, "instance-shutdown", status=None)
        tap.delete()
        scene.absent(nic)


def _arrives_at(machine, target):
    """The target has it, paused, while its memory is copied. In a cluster the one record names the target's device."""
    source = machine.tap
    tap = _Tap(machine, target)
    target.sh(tap.signal("STOP"))
    if machine.clustered:
        machine.tell(target, "instance-updated", device=tap.name, location=source.host)
    else:
        machine.tell(target, "instance-created", status=_FROZEN, device=tap.name)
    return tap


def _paused(machine, tap):
    """The source's record once its guest is paused, while the target resumes it. In a cluster there is one, and it runs."""
    source = machine.tap
    if machine.clustered:
        return machine.record(source.host, device=tap.name)
    return machine.record(source.host, status=_FROZEN, device=source.name)


@scenario("migration-live", seldom=True)
def live(scene):
    """a machine moves to another host while it runs, and back: nothing is lost while its memory is copied, then it is there"""
    with _machine(scene) as machine:
        _begin(machine)
        flows = [(watcher, machine.ipv4) for watcher in _watchers(scene)]
        for target in (machine.hosts[1], machine.hosts[0]):
            source = machine.tap
            with scene.no_ping_lost(*flows, what=f"{source.host.name} → {target.name}, its memory being copied"):
                tap = _arrives_at(machine, target)
                time.sleep(3)
            pings = scene.pings(*flows)
            try:
                pings.started()
                begun = time.monotonic()
                # it is paused, and its daemon tells nobody
                source.host.sh(f"{source.signal('STOP')}\n{_paused(machine, tap)}")
                if machine.clustered:
                    # The target starts it without a word; who leaves it tells of that, and then the record changes.
                    target.sh(tap.signal("CONT"))
                    machine.everywhere(target, machine.event(source.host, "instance-migrated"))
                    time.sleep(0.5)
                    machine.everywhere(target, machine.record(target, device=tap.name))
                else:
                    target.sh(f"{tap.signal('CONT')}\n{machine.record(target, device=tap.name)}{machine.event(target, 'instance-started')}")
                took = time.monotonic() - begun
                machine.runs_on(tap)
                for watcher, address in flows:
                    scene.reaches(watcher, address)
                time.sleep(2)
                source.delete()
                if not machine.clustered:
                    machine.tell(source.host, "instance-deleted", status=None)
                # Where zebra has put back what it had from the other host, with the same MAC, the agent claims it anew, but
                # not at once once more.
                nic = scene.present(machine, patience=_CLAIMED_AGAIN_S)
                only_there(scene, nic, source.host)
                time.sleep(1)
            finally:
                results = pings.stop()
            scene.note(f"{source.host.name} → {target.name}, paused there and running here within {took:.1f} s: " + "; ".join(map(str, results)))
            # A full look puts everything right within a minute: this is what events do.
            late = [str(result) for result in results if result.gap_s > 20 or " " in result.missing]
            check(not late, f"lost for long or more than once: {late}")


@scenario("migration-failed", seldom=True)
def failed(scene):
    """a move that is given up: the machine runs on where it was, and loses no ping"""
    with _machine(scene) as machine:
        source = _begin(machine)
        flows = [(watcher, machine.ipv4) for watcher in _watchers(scene)]
        before = scene.ours(source.host)
        with scene.no_ping_lost(*flows, what="a move that was given up"):
            tap = _arrives_at(machine, machine.hosts[1])
            time.sleep(3)
            if machine.clustered:
                # the target takes its device out of the one record
                machine.tell(source.host, "instance-updated")
            else:
                machine.tell(tap.host, "instance-deleted", status=None)
            tap.delete()
            time.sleep(3)
            scene.unchanged(source.host, before, "a move to another host was given up")
        scene.present(machine)


@scenario("migration-both", seldom=True, needs=ALONE)
def both(scene):
    """one machine runs on two hosts, as after a copy: its MAC is taken back once at most, and is the last one's in the end"""
    with _machine(scene) as machine:
        source = _begin(machine)
        tap = _arrives_at(machine, machine.hosts[1])
        tap.host.sh(f"{tap.signal('CONT')}\n{machine.record(tap.host, device=tap.name)}{machine.event(tap.host, 'instance-started')}")

        def lines(one):
            return one.host.sh(f"bridge fdb show dev {one.name}")

        scene.until("the second host has it", lambda: [] if _MAC in lines(tap) else [lines(tap)])
        # two full looks of each
        begun = time.monotonic()
        time.sleep(125)
        took = time.monotonic() - begun
        said = scene.journal(source.host).splitlines()
        back = [line for line in said if f"{_MAC} on " in line and line.endswith(f"on {source.name}")]
        scene.note(f"in {took:.0f} s the first host took it back {len(back)} times")
        check(len(back) <= 1 + took / 120, f"back and forth: {back}")
        asked = "vtysh -c 'show evpn mac vni all duplicate json'"
        for host in machine.hosts:
            fought = host.sh(asked)
            check(_MAC not in fought, f"{host.name}: {fought}")
        machine.tell(source.host, "instance-deleted", status=None)
        source.delete()
        machine.runs_on(tap)
        nic = scene.present(machine, patience=_CLAIMED_AGAIN_S)
        only_there(scene, nic, source.host)
        for watcher in _watchers(scene):
            scene.reaches(watcher, machine.ipv4)
