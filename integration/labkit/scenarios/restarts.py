"""The agent killed, restarted, upgraded: nothing is lost, and nothing is done that need not be."""

import re
import time

from labkit.scenarios.registry import check, scenario
from labkit.scenarios.scene import AGENT

_PACKAGE = "/var/tmp/lxmesh.deb"

# Another build of the same source: other bytes in the programs, a higher version.
_REBUILD = f"""\
set -eu
rm -rf /var/tmp/rebuild && mkdir /var/tmp/rebuild && cd /var/tmp/rebuild
dpkg-deb -R {_PACKAGE} tree
sed -i 's/^Version: .*/&+lab1/' tree/DEBIAN/control
for program in tree/usr/bin/*; do printf 'another build' >> "$program"; done
rm -f tree/DEBIAN/md5sums
dpkg-deb -Znone --root-owner-group -b tree rebuilt.deb > /dev/null
"""


def _new_agent(scene, host, old_pid):
    """Another process is the agent, and it is in step."""

    def probe():
        pid = scene.main_pid(host)
        if pid in (0, old_pid):
            return [f"{host.name}: main process is {pid}"]
        status = scene.status(host)
        wrong = [] if status["in_step"] else [f"{host.name} is not in step: {status}"]
        return wrong + ([] if status["pid"] == pid else [f"{host.name}: {status['pid']} answers, not {pid}"])

    scene.until(f"{host.name}: a new agent in step", probe)


def _nothing_lost(scene, what, action):
    """Runs action(host) on two hosts while everybody pings; all that is ours stays as it is."""
    hosts = scene.sups[:2]
    before = scene.on_all(scene.ours, hosts)
    with scene.no_ping_lost(*scene.ring(), what=what):
        for host in hosts:
            pid = scene.main_pid(host)
            action(host)
            _new_agent(scene, host, pid)
    for host in hosts:
        scene.unchanged(host, before[host.name], what)


@scenario("kill-agent")
def kill_agent(scene):
    """kill -9 of the agent: systemd starts it again, no ping is lost, nothing changes"""
    _nothing_lost(scene, "kill -9", lambda host: host.run(["systemctl", "kill", "--kill-whom=main", "-s", "KILL", AGENT]))


@scenario("restart-agent")
def restart_agent(scene):
    """a restart of the agent loses no ping and changes nothing"""
    _nothing_lost(scene, "restart", lambda host: host.run(["systemctl", "restart", AGENT]))


_WATCHDOG = "/run/systemd/system/lxmesh-agent.service.d/watchdog.conf"
# The agent pings three times in this while; the machine is slow. `$1` is a stray to be taken away.
_FREEZE = f"""\
set -eu
mkdir -p {_WATCHDOG.rpartition("/")[0]}
printf '[Service]\\nWatchdogSec=5\\n' > {_WATCHDOG}
systemctl daemon-reload
systemctl restart {AGENT}
pid=$(systemctl show -P MainPID {AGENT})
kill -STOP "$pid"
bridge fdb add 02:00:00:00:00:98 dev "$1" master extern_learn
echo "$pid"
"""


@scenario("frozen-agent")
def frozen_agent(scene):
    """an agent that hangs (SIGSTOP) is ended by its watchdog, and the next one catches up: no ping lost"""
    host, port = scene.c1.host, scene.c1.nic().port
    before = scene.ours(host)
    try:
        with scene.no_ping_lost(*scene.ring(), what="frozen"):
            scene.mark_journals()
            pid = int(host.run(["sh", "-c", _FREEZE, "freeze", port]).stdout)
            begun = time.monotonic()
            _new_agent(scene, host, pid)
            scene.note(f"in step again {time.monotonic() - begun:.1f} s after it froze")
            scene.says(host, r"[Ww]atchdog timeout", r"- fdb \S+ 02:00:00:00:00:98")
            scene.unchanged(host, before, "the watchdog restarted the agent")
    finally:
        host.sh(f"rm -f {_WATCHDOG}; systemctl daemon-reload")


@scenario("upgrade")
def upgrade(scene):
    """an upgrade to another build of the package, and back, restarts the agent and loses no ping"""
    scene.on_all(lambda host: host.run(["sh", "-c", _REBUILD], timeout=180), scene.sups[:2])

    def install(path, *words):
        return lambda host: host.run(["dpkg", *words, "--install", path], timeout=180)

    try:
        _nothing_lost(scene, "upgrade", install("/var/tmp/rebuild/rebuilt.deb"))
        version = scene.sups[0].sh("dpkg-query -W -f '${Version}' lxmesh")
        check(version.endswith("+lab1"), f"the other build is not installed: {version}")
    finally:
        _nothing_lost(scene, "downgrade", install(_PACKAGE, "--force-downgrade"))
        scene.on_all(lambda host: host.run(["rm", "-rf", "/var/tmp/rebuild"]), scene.sups[:2])


# As if another version of the agent had loaded another text of rules: the stamp says so.
_RESTAMP = """\
set -eu
comment=$(nft list set bridge lxmesh load_stamp | sed -n 's/.*comment "2 \\([0-9a-f]* [0-9a-f]*\\)".*/\\1/p')
[ -n "$comment" ]
nft -f - <<END
delete element bridge lxmesh load_stamp { 0x00000001 }
add element bridge lxmesh load_stamp { 0x00000001 comment "2 0000000000000000 ${comment#* }" }
END
"""


@scenario("new-rules")
def new_rules(scene):
    """a restart that finds another version's ruleset replaces it in one piece: no ping is lost"""
    host = scene.sups[0]

    def action(host):
        host.run(["systemctl", "stop", AGENT])
        host.run(["sh", "-c", _RESTAMP])
        scene.mark_journals()
        host.run(["systemctl", "start", AGENT])

    before = scene.ours(host)
    with scene.no_ping_lost(*scene.ring(), what="new rules"):
        pid = scene.main_pid(host)
        action(host)
        _new_agent(scene, host, pid)
        scene.says(host, r"~ nft_table lxmesh")
    scene.unchanged(host, before, "the same rules were loaded again")


# Lines of the monitors that are not the agent's doing, and why.
_NOISE = [
    # neighbours of the underlay age and are asked again all the time
    re.compile(r"\bdev host0\b"),
    # dnsmasq, which goes and comes with the agent, joins the group of DHCPv6 servers on the
    # bridges itself
    re.compile(r"dev svi-\w+ port svi-\w+ grp ff0[25]::1:[23] "),
    # the same as newer kernels and iproute2 tell it (seen with Linux 7.2), in two lines each
    re.compile(r"\bsvi-\w+ +inet6 mcast ff0[25]::1:[23] "),
    re.compile(r"^ +valid_lft forever preferred_lft forever\s*$"),
    # the monitors' own headings
    re.compile(r"^\s*(Timestamp:.*)?$"),
]


@scenario("silent-restart", seldom=True)
def silent_restart(scene):
    """with nothing to change, `ip`, `bridge` and `nft` monitors stay silent over a restart"""
    host = scene.sups[0]
    scene.calm()
    with host.running(["ip", "-t", "monitor", "all"]) as ip, host.running(["bridge", "-t", "monitor", "all"]) as bridge, \
            host.running(["nft", "monitor"]) as nft:
        time.sleep(2)
        pid = scene.main_pid(host)
        host.run(["systemctl", "restart", AGENT])
        _new_agent(scene, host, pid)
        time.sleep(3)
        said = {"ip": ip.stop(), "bridge": bridge.stop(), "nft": nft.stop()}
    changes = scene.status(host)["passes"]["changes"]
    check(changes == 0, f"the new agent changed {changes} things:\n{scene.journal(host, 30)}")
    heard = {
        name: [line for line in text.splitlines() if not any(noise.search(line) for noise in _NOISE)]
        for name, text in said.items()
    }
    ignored = sum(len(text.splitlines()) for text in said.values()) - sum(map(len, heard.values()))
    scene.note(f"monitors: {ignored} lines of others ignored")
    loud = [f"{name}: {line}" for name, lines in heard.items() for line in lines]
    check(not loud, lambda: "the monitors heard:\n  " + "\n  ".join(loud[:40]))
