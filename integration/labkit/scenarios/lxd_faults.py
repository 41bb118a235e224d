"""LXD away, or answering nonsense: nothing is withdrawn. Back again: in step again."""

import contextlib
import pathlib
import time

from labkit import fleet
from labkit.scenarios import state
from labkit.scenarios.registry import check, scenario
from labkit.scenarios.scene import AGENT, until_ready

PROXY_DIRECTORY = "/run/lxmesh-lab-proxy"
_PROXY = "/var/tmp/lxmesh-lab-proxy.py"
_DROP_IN = f"/run/systemd/system/{AGENT}.service.d/lab-proxy.conf"


def _stop_lxd(host):
    """Stops LXD (or Incus) and not its containers, which a stop of the socket alone would bring along; the
    socket goes first, or the agent's next question would start LXD again."""
    for unit in host.manager.units:
        host.run(["systemctl", "stop", "--job-mode=ignore-dependencies", unit], timeout=120)


def _flows(scene):
    return [
        (scene.c2, scene.c1.ipv4), (scene.c1, scene.c3.ipv6), (scene.extra, scene.c1.ipv4), (scene.c3, scene.extra.ipv6),
    ]


@scenario("lxd-stopped")
def lxd_stopped(scene):
    """LXD stopped: nothing withdrawn, no ping lost; LXD back: in step again"""
    host = scene.sups[0]
    before = scene.ours(host)
    with scene.no_ping_lost(*_flows(scene), what="LXD stopped and started"):
        _stop_lxd(host)
        try:
            def noticed():
                lxd = scene.status(host)["lxd"]
                return [] if not lxd["connected"] and lxd["error"] else [f"lxmesh status says {lxd}"]

            scene.until("the agent notices", noticed)
            time.sleep(5)
            scene.unchanged(host, before, "LXD is only stopped")
            # it repairs from memory meanwhile (something that no ping between containers needs)
            host.run(["ip", "neigh", "del", scene.c1.ipv4, "dev", state.SVI])
            scene.same_again(host, before)
            # and so does an agent that starts meanwhile, without a memory
            host.run(["systemctl", "restart", AGENT])
            time.sleep(3)
            scene.unchanged(host, before, "the agent restarted while LXD is stopped")
        finally:
            host.run(["systemctl", "start", *host.manager.units], timeout=120)
        scene.calm()
    scene.unchanged(host, before, "LXD is back")


@scenario("lxd-stopped-instance-gone")
def instance_gone(scene):
    """an instance that ends while LXD is stopped is withdrawn at the latest when LXD is back"""
    host = scene.sups[1]
    guest = scene.guest(host, "t2", 26)
    scene.dressed(guest)
    nic = scene.present(guest)
    _stop_lxd(host)
    try:
        # busybox's init powers off
        guest.place.run(["kill", "-USR2", "1"], check=False)
        scene.until("the container has ended", lambda: host.sh(
            "[ ! -d /sys/fs/cgroup/lxc.payload.t2 ] || echo still there").split())
    finally:
        host.run(["systemctl", "start", *host.manager.units], timeout=120)
    scene.absent(nic)
    scene.remove_guest(guest)


# Where the sockets of the other program are, and one on which somebody listens.
_SOCKETS = {"LXD": "/var/lib/lxd/unix.socket", "Incus": "/var/lib/incus/unix.socket"}
_LISTENS = """\
import os, socket, sys
os.makedirs(os.path.dirname(sys.argv[1]), exist_ok=True)
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("ready", flush=True)
server.accept()
os._exit(1)
"""


@scenario("incus-and-lxd", seldom=True)
def incus_and_lxd(scene):
    """sockets of both programs on one host: nothing is withdrawn and nobody guessed at, until the right one is named"""
    host = scene.sups[0]
    [other] = [path for name, path in _SOCKETS.items() if name != host.manager.name]
    check(host.run(["test", "-e", other], check=False).returncode != 0, f"{other} is there already")
    text = host.read(fleet.HOST_FILE)
    before = scene.ours(host)

    def lxd():
        return scene.status(host)["lxd"]

    def connected():
        return [] if lxd()["connected"] and not lxd()["error"] else [f"lxmesh status says {lxd()}"]

    with scene.no_ping_lost(*_flows(scene), what="sockets of both programs"):
        try:
            with until_ready(host, ["python3", "-c", _LISTENS, other]) as listens:
                host.run(["systemctl", "restart", AGENT])

                def refuses():
                    error = lxd()["error"] or ""
                    named = other in error and host.manager.socket in error and "`socket` in [lxd]" in error
                    return [] if named and not lxd()["connected"] else [f"lxmesh status says {lxd()}"]

                scene.until("the agent refuses to guess", refuses)
                time.sleep(3)
                scene.unchanged(host, before, "nobody knows which program has the instances")
                host.push(f'{text}\n[lxd]\nsocket = "{host.manager.socket}"\n', fleet.HOST_FILE)
                host.run(["systemctl", "restart", AGENT])
                scene.until("the named one is connected to", connected)
                check(listens.running(), "somebody connected to the other program")
        finally:
            host.sh(f"rm -f {other}; rmdir {other.rpartition('/')[0]} 2> /dev/null || true")
            host.push(text, fleet.HOST_FILE)
            host.run(["systemctl", "restart", AGENT])
        scene.until("the only one is connected to", connected)
        scene.calm()
    scene.unchanged(host, before, "the other socket is gone")


@contextlib.contextmanager
def behind_proxy(scene, host):
    """The host's agent talks to LXD through the proxy; yields a function that sets its mode."""
    content = pathlib.Path(__file__).with_name("lxd_proxy.py").read_bytes()
    host.push(content, _PROXY, "0755")
    host.sh(f"rm -rf {PROXY_DIRECTORY} && mkdir {PROXY_DIRECTORY} && echo pass > {PROXY_DIRECTORY}/mode && : > {PROXY_DIRECTORY}/served")

    def set_mode(mode):
        host.sh(f": > {PROXY_DIRECTORY}/served; echo {mode} > {PROXY_DIRECTORY}/mode")

    with until_ready(host, ["python3", _PROXY, PROXY_DIRECTORY, host.manager.socket]):
        try:
            host.push(f"[Service]\nEnvironment={host.manager.directory_variable}={PROXY_DIRECTORY}\n", _DROP_IN)
            host.sh(f"systemctl daemon-reload && systemctl restart {AGENT}")
            scene.calm()
            yield set_mode
        finally:
            host.sh(f"rm -rf {_DROP_IN.rpartition('/')[0]}; systemctl daemon-reload; systemctl restart {AGENT}; rm -rf {PROXY_DIRECTORY}")
            scene.calm()


@scenario("lxd-bad-answers", seldom=True)
def bad_answers(scene):
    """errors, cut-off or short answers, garbage, an empty or partial list: nothing withdrawn, not even over a restart"""
    host = scene.sups[0]
    told = {}
    with behind_proxy(scene, host) as set_mode:
        before = scene.ours(host)
        with scene.no_ping_lost(*_flows(scene), what="bad answers"):
            for mode in ("error", "refused", "cut", "short", "garbage", "empty", "partial"):
                scene.mark_journals()
                set_mode(mode)

                def served(least=1):
                    lines = host.read(f"{PROXY_DIRECTORY}/served").splitlines()
                    return [] if len(lines) >= least else [f"{mode}: spoilt so far {lines}"]

                scene.until(f"the agent has asked in mode {mode}", served)
                time.sleep(1)
                scene.unchanged(host, before, f"LXD answers in mode {mode}")
                told[mode] = scene.status(host)["lxd"]["error"]
                if mode in ("error", "cut", "empty"):
                    so_far = len(host.read(f"{PROXY_DIRECTORY}/served").splitlines())
                    host.run(["systemctl", "restart", AGENT])
                    scene.until(f"the new agent has asked in mode {mode}", lambda: served(so_far + 1))
                    time.sleep(1)
                    scene.unchanged(host, before, f"the agent restarted while LXD answers in mode {mode}")
                set_mode("pass")

                def well():
                    lxd = scene.status(host)["lxd"]
                    return [] if lxd["connected"] and not lxd["error"] else [f"{mode}: {lxd}"]

                scene.until("LXD well again", well)
        scene.calm()
        scene.unchanged(host, before, "LXD answers well again")
    for mode, error in told.items():
        scene.note(f"{mode}: {error}")
    silent = [mode for mode, error in told.items() if not error and mode != "partial"]
    check(not silent, f"lxmesh status told nothing of {silent}")
