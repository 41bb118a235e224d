"""FRR restarted, stopped and started: what is local stays, what is remote comes back."""

import time

from labkit.scenarios.registry import check, scenario


def _local_untouched(scene, host, action, what):
    """Runs the action; nothing of ours on the host changes or is even written."""
    nics = [guest.nic() for guest in scene.everyone if guest.host is host]
    before = scene.ours(host)
    words = [word for nic in nics for word in (nic.mac, *nic.addresses)]
    with host.running(["ip", "monitor", "neigh"]) as ip, host.running(["bridge", "monitor", "fdb"]) as bridge:
        time.sleep(1)
        action()
        time.sleep(2)
        heard = (ip.stop() + bridge.stop()).splitlines()
    scene.unchanged(host, before, what)
    about_ours = [line for line in heard if set(line.split()) & set(words)]
    check(not about_ours, lambda: f"{what} touched local entries:\n  " + "\n  ".join(about_ours[:20]))


def _routes_back(scene):
    for guest in scene.everyone:
        scene.present(guest)
    scene.reaches(scene.c1, scene.c2.ipv4, scene.c3.ipv6)
    scene.reaches(scene.c2, scene.c1.ipv4, scene.c1.ipv6)


@scenario("frr-restart", seldom=True)
def frr_restart(scene):
    """FRR restarted: local entries untouched, routes come back"""
    host = scene.sups[0]
    pings = scene.pings((scene.c2, scene.c1.ipv4), (scene.c1, scene.c3.ipv4), (scene.extra, scene.c1.ipv4))
    try:
        pings.started()
        _local_untouched(scene, host, lambda: host.run(["systemctl", "restart", "frr"], timeout=120), "restarting FRR")
        _routes_back(scene)
    finally:
        results = pings.stop()
    scene.note("restart: " + "; ".join(map(str, results)))
    check(results[2].lost == 0, f"pings within the host were lost: {results[2]}")


@scenario("frr-stop-and-start")
def frr_stop_and_start(scene):
    """FRR stopped: local entries and traffic within the host untouched; started: routes come back"""
    host = scene.sups[0]
    with scene.no_ping_lost((scene.extra, scene.c1.ipv4), (scene.c1, scene.extra.ipv6), what="FRR stopped and started"):
        _local_untouched(scene, host, lambda: host.run(["systemctl", "stop", "frr"], timeout=120), "stopping FRR")
        _local_untouched(scene, host, lambda: host.run(["systemctl", "start", "frr"], timeout=120), "starting FRR")
        _routes_back(scene)


@scenario("reflector-stopped")
def reflector_stopped(scene):
    """one of two reflectors stopped and started: no ping is lost"""
    reflector = scene.lab.reflectors[0]
    if len(scene.lab.reflectors) < 2:
        raise AssertionError("this lab has only one reflector")
    try:
        with scene.no_ping_lost(*scene.ring(), what="a reflector stopped"):
            reflector.run(["systemctl", "stop", "frr"], timeout=120)
            # longer than the sessions' hold time
            time.sleep(12)
    finally:
        reflector.run(["systemctl", "start", "frr"], timeout=120)
    _routes_back(scene)
