"""What a test works with: the hosts, the containers, waiting, and what was noticed on the way."""

import contextlib
import json
import pathlib
import re
import shlex
import time

from labkit import fleet
from labkit.console import LabError
from labkit.scenarios import state
from labkit.scenarios.registry import Failure, check
from labkit.scenarios.traffic import Pings

TOOL = "/var/tmp/lxmesh-lab-tool.py"
AGENT = "lxmesh-agent"
# Emulated machines are slow: a limit is there to end a test, not to measure.
PATIENCE_S = 60

_LAUNCH = """\
set -eu
client=$1 target=$2 name=$3 project=$4 mac=$5; shift 5
"$client" --project "$project" init bb "$name" $target > /dev/null
[ -z "$mac" ] || set -- "$@" hwaddr="$mac"
"$client" --project "$project" config device add "$name" eth0 nic nictype=p2p name=eth0 "$@" > /dev/null
"""


class Guest:
    """A container of a test: where it is, what LXD or Incus says of its NIC."""

    def __init__(self, scene, host, name, ipv4, ipv6, project="default"):
        self.scene = scene
        self.host = host
        self.name = name
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.project = project

    @property
    def place(self):
        return self.host.container(self.name, self.project)

    @property
    def label(self):
        return self.name if self.project == "default" else f"{self.project}/{self.name}"

    def client(self, *words, **options):
        """By lxc or incus, in its project; returns standard output."""
        return self.host.client("--project", self.project, *words, **options)

    def runs(self):
        """Whether its processes are on its host."""
        return self.host.run(["test", "-d", f"/sys/fs/cgroup/lxc.payload.{self.place.payload}"], check=False).returncode == 0

    def nic(self, device="eth0"):
        """The NIC as LXD or Incus describes it now."""
        query = f"/1.0/instances/{self.name}?project={self.project}"
        instance = json.loads(self.host.client("query", query))
        config = instance["expanded_config"]
        keys = instance["expanded_devices"].get(device, {})
        return state.Nic(
            host=self.host.name,
            instance=self.label,
            port=config.get(f"volatile.{device}.host_name", ""),
            mac=keys.get("hwaddr") or config.get(f"volatile.{device}.hwaddr", ""),
            ipv4=keys.get("user.lxmesh.ipv4.address"),
            ipv6=keys.get("user.lxmesh.ipv6.address"),
        )


class Scene:
    def __init__(self, lab):
        self.lab = lab
        self.sups = lab.supervisors
        if len(self.sups) < 3:
            raise LabError(f"the scenarios need three supervisors, this lab has {len(self.sups)}")
        self.notes = []
        self.guests = []
        self.ends = []
        self.cursors = {}
        self.foreign_before = None
        first = [Guest(self, host, f"c{i}", *fleet.addresses_of(i)) for i, host in enumerate(self.sups, 1)]
        # one more on the first host: two containers behind one bridge
        self.extra = Guest(self, self.sups[0], "c101", *fleet.addresses_of(101))
        self.c1, self.c2, self.c3 = first[:3]
        self.everyone = [*first, self.extra]

    def note(self, text):
        """Something worth printing whether the test passes or not."""
        self.notes.append(text)

    # -- waiting ---------------------------------------------------------------------------

    def until(self, what, probe, patience=PATIENCE_S, interval=0.3):
        """Repeats probe() until it returns no complaint; fails with the last one.

        A probe returns a list of complaints or None; a LabError is a complaint too.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                complaints = probe()
            except LabError as error:
                complaints = [str(error)]
            if not complaints:
                return
            if time.monotonic() > deadline:
                raise Failure(f"{what}: not within {patience} s:\n  " + "\n  ".join(map(str, complaints[:12])))
            time.sleep(interval)

    def on_all(self, action, hosts=None):
        """action(host) on all supervisors at once: {name: result}."""
        return self.lab.each(hosts or self.sups, action)

    # -- the agent ---------------------------------------------------------------------------

    def status(self, host):
        result = host.run(["lxmesh", "status", "--json"], check=False)
        try:
            return json.loads(result.stdout)
        except ValueError:
            raise LabError(f"{host.name}: lxmesh status: {result.stdout}{result.stderr}") from None

    def complaints_of(self, host):
        """Why the host is not in step, or what a pass would do; empty if all is well."""
        result = host.run(["sh", "-c", "lxmesh status --json; echo; echo ===; lxmesh plan; echo $?"], check=False)
        text, _, plan = result.stdout.partition("\n===\n")
        try:
            status = json.loads(text)
        except ValueError:
            return [f"{host.name}: no status: {result.stdout}{result.stderr}"]
        complaints = []
        if not status["in_step"]:
            waiting = [n["waiting_for"] for n in status["networks"] if n["waiting_for"]]
            complaints.append(
                f"{host.name} is not in step: lxd {status['lxd']}, dhcp {status['dhcp']}, waiting {waiting}, "
                f"unconnected {[n['instance'] for n in status['nics'] if not n['connected']]}, "
                f"put off {status['deferred']}, last error {status['last_error']}"
            )
        complaints += [f"{host.name}: problem: {text}" for text in status["problems"]]
        if plan.strip() != "nothing to do\n0":
            complaints.append(f"{host.name}: lxmesh plan: {plan}{result.stderr}")
        return complaints

    def calm(self, patience=PATIENCE_S):
        """Every host is in step and has nothing to do."""

        def probe():
            answers = self.on_all(self.complaints_of)
            return [complaint for name in sorted(answers) for complaint in answers[name]]

        self.until("in step with nothing to do", probe, patience, interval=1)

    def mark_journals(self):
        """From here on, `journal` tells."""

        def cursor(host):
            said = host.run(["journalctl", "-q", "-n", "1", "--show-cursor", "-o", "cat"]).stdout
            return said.rpartition("-- cursor: ")[2].strip()

        self.cursors = self.on_all(cursor)

    def journal(self, host, lines=None):
        """What the agent said since the last mark."""
        command = ["journalctl", "-q", "-u", AGENT, "-o", "cat", "--no-pager"]
        if self.cursors.get(host.name):
            command += ["--after-cursor", self.cursors[host.name]]
        if lines:
            command += ["-n", str(lines)]
        return host.run(command, check=False).stdout

    def says(self, host, *patterns):
        """The agent's journal since the mark has a line for each pattern."""

        def probe():
            text = self.journal(host)
            return [f"no line like {p!r} in the agent's journal:\n{text[-1500:]}" for p in patterns if not re.search(p, text)]

        self.until(f"{host.name}: the journal says what happened", probe, patience=20)

    def main_pid(self, host):
        return int(host.sh(f"systemctl show -P MainPID {AGENT}") or 0)

    # -- state ---------------------------------------------------------------------------------

    def ours(self, host):
        return state.read(host).ours()

    def same_again(self, host, before, patience=PATIENCE_S):
        """All that is ours on the host is as it was."""

        def probe():
            return state.differences(before, self.ours(host))

        self.until(f"{host.name}: everything as before", probe, patience)

    def unchanged(self, host, before, why):
        gone = state.differences(before, self.ours(host))
        check(not gone, lambda: f"{host.name}: changed although {why}:\n  " + "\n  ".join(gone[:20]))

    def present(self, guest, device="eth0", patience=PATIENCE_S):
        """The NIC is complete on its host, and known on all others by FRR. Returns the NIC."""
        seen = []

        def probe():
            nic = guest.nic(device)
            seen.append(nic)
            looks = self.on_all(state.read)
            lacks = [f"{guest.host.name} lacks {text}" for text in looks[guest.host.name].missing_here(nic)]
            for host in self.sups:
                if host is not guest.host:
                    texts = looks[host.name].missing_from_afar(nic, guest.host.address)
                    lacks += [f"{host.name} lacks {text}" for text in texts]
            return lacks

        try:
            self.until(f"{guest.label} is known everywhere", probe, patience)
        except Failure as failure:
            asked = f"vtysh -c 'show interface {seen[-1].port}'; bridge -d fdb show | grep {seen[-1].mac}" if seen else "true"
            told = self.status(guest.host)["passes"]
            raise Failure(f"{failure}\n{self._known_to_frr(seen[-1])}\n{guest.host.sh(asked, check=False)}\n{told}"
                          if seen else str(failure)) from None
        return seen[-1]

    def absent(self, nic, patience=PATIENCE_S):
        """No host knows anything of the NIC any more."""

        def probe():
            looks = self.on_all(state.read)
            left = []
            for host in self.sups:
                left += [f"{host.name} still has {t}" for t in looks[host.name].traces(nic, host.name == nic.host)]
                left += [f"{host.name}: orphan {port} in set ports" for port in looks[host.name].orphans()]
            return left

        try:
            self.until(f"nothing left of {nic.instance} {nic.mac}", probe, patience)
        except Failure as failure:
            raise Failure(f"{failure}\n{self._known_to_frr(nic)}") from None

    def _known_to_frr(self, nic):
        """What zebra and bgpd say of a MAC, for the evidence."""
        vni = self.sups[0].sh("vtysh -c 'show evpn mac vni all' | sed -n 's/^VNI \\([0-9]*\\).*/\\1/p'").split()
        asked = "; ".join(f"vtysh -c 'show evpn mac vni {one} mac {nic.mac}'" for one in vni)
        asked += f"; vtysh -c 'show bgp l2vpn evpn' | grep -A2 {nic.mac}"
        texts = self.on_all(lambda host: host.sh(asked, check=False), self.lab.hosts)
        return "\n".join(f"    {name}: {text}" for name, text in texts.items())

    # -- containers ----------------------------------------------------------------------------

    def forget_leases(self, guest):
        """Takes the container's addresses away; its DHCP clients start again and know nothing."""
        script = (
            "ip addr flush dev eth0 scope global; rm -f /run/dhcp4.bound /run/dhcp6.bound /run/dhcp6.leases;"
            "killall udhcpc dhclient; exit 0"
        )
        guest.place.run(["sh", "-c", script])

    def guest(self, host, name, number, start=True, mac="", project="default", network="vpc", **keys):
        """Makes a container with the addresses of that number. It is deleted after the theme."""
        four, six = fleet.addresses_of(number, network)
        guest = Guest(self, host, name, four, six, project)
        self.guests.append(guest)
        words = [f"user.lxmesh.parent={network}", f"user.lxmesh.ipv4.address={four}", f"user.lxmesh.ipv6.address={six}"]
        words += [f"user.lxmesh.{key}={value}" for key, value in keys.items()]
        target = " ".join(host.target)
        host.run(["sh", "-c", _LAUNCH, "launch", host.manager.client, target, name, project, mac, *words], timeout=180)
        if start:
            guest.client("start", name, timeout=180)
        return guest

    def remove_guest(self, guest):
        guest.client("delete", "-f", guest.name, check=False, timeout=180)
        if guest in self.guests:
            self.guests.remove(guest)

    def remove_guests(self):
        for guest in list(self.guests):
            self.remove_guest(guest)

    def dressed(self, guest, patience=PATIENCE_S):
        """Waits until the container has its addresses from DHCP."""
        wanted = [address for address in (guest.ipv4, guest.ipv6) if address]

        def probe():
            text = guest.place.run(["ip", "addr", "show", "dev", "eth0"], check=False).stdout
            return [f"{guest.label} has no {a}: {text}" for a in wanted if f" {a}/" not in text]

        self.until(f"{guest.label} has its addresses", probe, patience)

    def reaches(self, source, *targets, patience=PATIENCE_S):
        """source pings every target (addresses; link-local with %eth0)."""

        def probe():
            answered = self.ping_all(source, targets)
            return [f"{source.label} does not reach {t}" for t in targets if t not in answered]

        self.until(f"{source.label} reaches {', '.join(targets)}", probe, patience)

    def ping_all(self, source, targets, words=""):
        """The targets that answered; all are asked at once."""
        script = (
            f"for t; do ping -n -q -c 2 -i 0.3 -W 3 {words} \"$t\" >/dev/null 2>&1 && echo \"$t\" & done; wait"
        )
        answer = source.place.net.run(["sh", "-c", script, "ping-all", *targets], check=False, timeout=60)
        return set(answer.stdout.split())

    def at_end_of_theme(self, action):
        """What several tests share and the last of them leaves behind: action() takes it back."""
        self.ends.append(action)

    def end_theme(self):
        self.remove_guests()
        while self.ends:
            self.ends.pop()()

    # -- traffic -------------------------------------------------------------------------------

    def pings(self, *flows):
        """Background pings every 100 ms; flows are (source guest, target address)."""
        return Pings([(source, target) for source, target in flows])

    @contextlib.contextmanager
    def no_ping_lost(self, *flows, what):
        """None of the 100 ms pings between the flows' ends is lost during the block."""
        for source, target in flows:
            # A container that has just been started has no address yet.
            self.reaches(source, target)
        pings = self.pings(*flows)
        try:
            pings.started()
            yield
            # a moment more: what happens right after counts too
            time.sleep(1)
        finally:
            results = pings.stop()
        self.note(f"{what}: " + "; ".join(map(str, results)))
        lost = [(flow, result) for flow, result in zip(flows, results) if result.lost]
        if lost:
            texts = [f"{result}\n{self._about(*flow)}" for flow, result in lost]
            raise Failure(f"pings lost during {what}: " + "\n".join(texts))

    def _about(self, source, target):
        """What the source and all hosts know of an address, for the evidence."""
        asked = f"ip neigh show to {target} nud all"
        parts = [f"{source.label}: {source.place.net.sh(asked, check=False)}"]
        parts += [f"{name}: {text}" for name, text in self.on_all(lambda host: host.sh(asked, check=False)).items()]
        return "\n".join("    " + part for part in parts)

    def ring(self):
        """Flows that cross all hosts, by both families, and one within a host."""
        return [
            (self.c1, self.c2.ipv4), (self.c2, self.c3.ipv6), (self.c3, self.c1.ipv4),
            (self.extra, self.c1.ipv6),
        ]

    def tool(self, place, *words, **options):
        """Runs the lab's tool (tool.py) somewhere on a supervisor; returns the JSON it prints."""
        result = place.run(["python3", TOOL, *words], **options)
        return json.loads(result.stdout)

    def serving(self, guest, *services):
        """`with scene.serving(c2, "tcp/5000"):` echo servers in the container's network."""
        return until_ready(guest.place.net, ["python3", TOOL, "serve", *services])

    def connects(self, source, *targets):
        """{target: "yes" | "no" | "refused"} for targets like tcp/80@192.0.2.12, all at once."""
        return self.tool(source.place.net, "connect", *targets)

    # -- before and after ------------------------------------------------------------------------

    def prepare(self):
        """What all tests build on: everybody has addresses, the tool is there, foreign things."""
        from labkit.scenarios import foreign

        content = pathlib.Path(__file__).with_name("tool.py").read_bytes()
        self.on_all(lambda host: host.push(content, TOOL, "0755"))
        exists = self.extra.host.run([self.extra.host.manager.client, "info", self.extra.name], check=False).returncode == 0
        if not exists:
            self.guest(self.extra.host, self.extra.name, 101)
            self.guests.clear()
        elif not self.extra.runs():
            self.extra.client("start", self.extra.name)
        for guest in self.everyone:
            self.dressed(guest)
        self.calm()
        for guest in self.everyone:
            self.reaches(guest, *(a for other in self.everyone if other is not guest for a in (other.ipv4, other.ipv6)))
        self.on_all(foreign.create)
        self.foreign_before = self.on_all(foreign.look)

    def tidy(self):
        """Brings back what a failed test may have left: services, containers, settings."""
        self.remove_guests()

        def services(host):
            script = (
                "rm -rf /run/systemd/system/lxmesh-agent.service.d; systemctl daemon-reload;"
                f"systemctl start {' '.join(host.manager.units)}; systemctl start frr systemd-networkd;"
                f"systemctl restart {AGENT}; {host.manager.ready} --timeout=60"
            )
            host.sh(script, check=False, timeout=180)

        self.on_all(services)
        for guest in self.everyone:
            if not guest.runs():
                guest.client("start", guest.name, check=False)

    def finish(self):
        """Removes what `prepare` made."""
        from labkit.scenarios import foreign

        self.remove_guests()
        self.extra.client("delete", "-f", self.extra.name, check=False)
        self.on_all(foreign.remove)


@contextlib.contextmanager
def until_ready(place, command):
    """A background command that prints a line when it is ready."""
    with place.running(command) as background:
        line = next(background.lines(), "")
        if line.strip() != "ready":
            raise LabError(f"{place.name}: {shlex.join(command)}: {line}{background.stop()}")
        yield background
