"""`lxmesh-gen apply` on running hosts: what loses no ping, what is undone by itself, what a death leaves."""

import contextlib
import re
import time

from labkit import fleet
from labkit.scenarios.registry import check, scenario

CONF = fleet.HOST_FILE
STATE = "/var/lib/lxmesh-gen"
# All that apply writes, without its own notes.
_FILES = (
    "cd / && find etc/frr etc/systemd etc/sysctl.d etc/modules-load.d etc/lxmesh var/lib/lxmesh -type f "
    "-exec md5sum {} + | sort -k 2"
)
_NETWORK = '\n[[network]]\nname = "extra"\nvni = 990\ngateway = ["198.18.0.1/24"]\n'


def _files(host):
    return host.sh(_FILES)


def _init_of(scene, host):
    """The number of the host's init in the lab's machine: another one after a restart, once all is started."""
    return scene.lab.outside.sh(f"cat /run/lab/{host.name}.leader")


# A shutdown first stops what runs and then ends it; `$PPID` is what the lab's machine waits for.
_STOPPED_AND_ENDED = "kill -STOP $PPID; sleep 1; kill -KILL $PPID"


def _apply(host, text=None, words="", check_status=True):
    """Applies, after the host file became `text`; returns what was said."""
    if text is not None:
        host.push(text, CONF)
    return host.run(["sh", "-c", f"lxmesh-gen apply {words} 2>&1"], timeout=300, check=check_status).stdout


def _settled(scene, host):
    """No apply is unfinished, and every BGP session is up."""

    def probe():
        left = host.sh(f"ls {STATE}/journal.json 2>/dev/null; exit 0").strip()
        text = host.sh("vtysh -c 'show bgp l2vpn evpn summary json'", check=False)
        states = re.findall(r'"state": ?"(\w+)"', text)
        complaints = [f"{host.name}: an apply is unfinished"] if left else []
        if not states or set(states) != {"Established"}:
            complaints.append(f"{host.name}: BGP sessions are {states}")
        return complaints

    scene.until(f"{host.name}: settled", probe, patience=180, interval=1)


@contextlib.contextmanager
def _restored(scene, hosts):
    """The hosts as they were, whatever happens in between."""
    before = scene.on_all(lambda host: host.read(CONF), hosts)
    scene.on_all(_apply, hosts)

    def restore(host):
        host.sh("lxmesh-gen rollback", check=False, timeout=300)
        _apply(host, before[host.name], words="--no-health")
        _settled(scene, host)

    try:
        yield before
    finally:
        scene.on_all(restore, hosts)


@scenario("apply-nothing")
def apply_nothing(scene):
    """apply with nothing changed says so, touches no file and loses no ping"""
    host = scene.sups[0]
    with _restored(scene, [host]):
        before = _files(host)
        with scene.no_ping_lost(*scene.ring(), what="nothing applied"):
            said = _apply(host)
        check(said == "nothing to do\n", said)
        check(_files(host) == before, "files were changed")


@scenario("apply-network")
def apply_network(scene):
    """a new network is there after apply, and removed by the next; no ping is lost"""
    with _restored(scene, scene.sups) as before:
        with scene.no_ping_lost(*scene.ring(), what="a network added and removed on every host"):
            # on one host first, as a careful operator would; then everywhere
            first, *rest = scene.sups
            for some in ([first], rest):
                scene.on_all(lambda host: _apply(host, before[host.name] + _NETWORK), some)
            for host in scene.sups:
                text = host.sh("ip -d link show vxlan-extra; ip address show svi-extra")
                check("vxlan id 990" in text and "198.18.0.1/24" in text, lambda: text)
            scene.on_all(lambda host: _apply(host, before[host.name]))
            for host in scene.sups:
                left = host.sh("ip -o link | grep -- -extra; exit 0")
                check(not left, lambda: f"{host.name} still has {left}")


@scenario("apply-reflector", seldom=True)
def apply_reflector(scene):
    """a new reflector, here one that does not answer yet, costs no session and no ping"""
    host = scene.sups[0]
    with _restored(scene, [host]) as before:
        text = re.sub(r"(?m)^reflectors *= \[", 'reflectors = ["198.51.100.199", ', before[host.name])
        with scene.no_ping_lost(*scene.ring(), what="a reflector added"):
            _apply(host, text)
        check("198.51.100.199" in host.sh("vtysh -c 'show running-config'"), "FRR does not know it")


@scenario("apply-vni")
def apply_vni(scene):
    """a changed VNI makes its tunnel anew; other networks lose no ping"""
    host = scene.sups[0]
    with _restored(scene, [host]) as before:
        text = before[host.name].replace("= 200", "= 201")
        check(text != before[host.name], "the lab's host file has no VNI 200")
        with scene.no_ping_lost(*scene.ring(), what="another network's VNI changed"):
            said = _apply(host, text)
        check("VNI 200 becomes 201" in said, said)
        check("vxlan id 201" in host.sh("ip -d link show vxlan-blue"), "the tunnel has another VNI")


@scenario("apply-wrong-asn", seldom=True)
def apply_wrong_asn(scene):
    """a wrong AS number is undone by itself: files and sessions are back"""
    host = scene.sups[0]
    with _restored(scene, [host]) as before:
        files = _files(host)
        said = _apply(host, before[host.name].replace("64500", "64999"), "--health-limit 10", check_status=False)
        check("everything is as it was before" in said, said)
        check(_files(host) == files, lambda: f"files differ:\n{files}\n{_files(host)}")
        _settled(scene, host)
        check("64999" in host.sh(f"cat {STATE}/refused.toml"), "the refused host file is not kept")


@scenario("apply-large-mtu")
def apply_large_mtu(scene):
    """an underlay MTU that the underlay does not have is seen by pings, and undone"""
    host = scene.sups[0]
    with _restored(scene, [host]) as before:
        mtu = host.sh("cat /sys/class/net/vxlan-vpc/mtu")
        text = before[host.name].replace("[fabric]", "[fabric]\nunderlay_mtu = 9000", 1)
        said = _apply(host, text, "--health-limit 5", check_status=False)
        check("do not reach" in said and "everything is as it was before" in said, said)
        check(host.sh("cat /sys/class/net/vxlan-vpc/mtu") == mtu, "the tunnel keeps the wrong MTU")
        _settled(scene, host)


@scenario("apply-killed", seldom=True)
def apply_killed(scene):
    """kill -9 of apply at any time: its guard undoes it, and connectivity is back"""
    host = scene.sups[0]
    with _restored(scene, [host]) as before:
        files = _files(host)
        wrong = before[host.name].replace("64500", "64999") + _NETWORK
        for moment in (0.02, 0.1, 0.3, 0.8, 2.0, 5.0):
            host.push(wrong, CONF)
            host.sh(
                "lxmesh-gen apply > /dev/null 2>&1 & pid=$!;"
                f"sleep {moment}; kill -9 $pid; wait $pid; exit 0", timeout=120,
            )
            _settled(scene, host)
            # killed before it began, it has left the host file as well
            host.push(before[host.name], CONF)
            check(_files(host) == files, lambda: f"after {moment} s: {files}\n{_files(host)}")
        scene.reaches(scene.c1, scene.c2.ipv4, scene.c3.ipv6)


@scenario("apply-unconfirmed")
def apply_unconfirmed(scene):
    """what nobody confirms in time is undone, what somebody confirms stays"""
    host = scene.sups[0]
    with _restored(scene, [host]) as before:
        files = _files(host)
        _apply(host, before[host.name] + _NETWORK, "--confirm 5")
        check("vxlan-extra" in host.sh("ip -o link"), "the network is not there while it waits")
        time.sleep(5)
        _settled(scene, host)
        check(_files(host) == files, lambda: f"{files}\n{_files(host)}")
        check("vxlan-extra" not in host.sh("ip -o link"), "the network is still there")
        _apply(host, before[host.name] + _NETWORK, "--confirm 300")
        host.sh("lxmesh-gen confirm")
        time.sleep(1)
        check("vxlan-extra" in host.sh("ip -o link"), "what was confirmed is gone")


@scenario("apply-reboot")
def apply_reboot(scene):
    """a host restarted before anybody confirmed comes back as it was, and so do its containers"""
    host, guest = scene.sups[2], scene.c3
    with _restored(scene, [host]) as before:
        files = _files(host)
        _apply(host, before[host.name] + _NETWORK, "--confirm 600")
        check("vxlan-extra" in host.sh("ip -o link"), "the network is not there while it waits")
        ended = host.run(["sh", "-c", _STOPPED_AND_ENDED], check=False, timeout=30)
        check(ended.returncode == 128 + 9, lambda: f"a command that a shutdown ended: {ended}")
        running = _init_of(scene, host)
        begun = time.monotonic()
        host.run(["systemctl", "--no-block", "reboot"])

        def probe():
            return [f"{host.name} still runs"] if _init_of(scene, host) == running else []

        scene.until(f"{host.name}: restarted", probe, patience=180, interval=1)
        _settled(scene, host)
        check(_files(host) == files, lambda: f"{files}\n{_files(host)}")
        check("vxlan-extra" not in host.sh("ip -o link"), "the network is still there")
        # the lab's instances do not start by themselves
        host.start_manager()
        guest.client("start", guest.name, timeout=180)
        scene.dressed(guest)
        scene.reaches(guest, scene.c1.ipv4, scene.c2.ipv6)
        scene.note(f"from the restart to the container's first answer: {time.monotonic() - begun:.0f} s")
