"""The command line of `integration/lab`."""

import argparse
import json
import os
import pathlib
import sys

from labkit import fleet, platforms, reach
from labkit.console import LabError, say, step, table
from labkit.lab import Lab, alone
from labkit.scenarios import run
from labkit.settings import FleetPlan


def main():
    options = _parser().parse_args()
    try:
        if options.command in _ALONE and not getattr(options, "list", False):
            with alone():
                return options.command(options) or 0
        return options.command(options) or 0
    except LabError as error:
        print(f"lab: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(
        prog="integration/lab", description="Whole LXMesh hosts on one machine: Debian, LXD or Incus, FRR, the product."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start the lab, or refresh the product in the one that runs")
    up.set_defaults(command=_up)
    up.add_argument("--hosts", type=int, default=3, metavar="N", help="number of supervisors (default 3)")
    up.add_argument("--reflectors", type=int, default=2, metavar="N", help="number of reflectors (default 2)")
    _platform(up)
    up.add_argument("--no-vm", action="store_true", help="run the hosts on this machine's own kernel")
    up.add_argument("--no-product", action="store_true", help="everything but LXMesh itself")
    up.add_argument("--deb", metavar="FILE", help="install this package instead of building one")
    up.add_argument("--keep", action="store_true", help="leave everything running if a step fails")

    status = commands.add_parser("status", help="each host's `lxmesh status`, and who reaches whom")
    status.set_defaults(command=_status)

    execute = commands.add_parser("exec", help="run a command on a host: exec HOST -- CMD...")
    execute.set_defaults(command=_exec)
    execute.add_argument("host", help="a host (sup1, rr1 ...), HOST/CONTAINER, or `machine` around them")
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="-- CMD")

    push = commands.add_parser("push", help="copy files to /root of every host")
    push.set_defaults(command=_push)
    push.add_argument("files", nargs="+", metavar="FILE")

    deploy = commands.add_parser("deploy", help="install the package again and configure the running hosts")
    deploy.set_defaults(command=_deploy)
    deploy.add_argument("--deb", metavar="FILE", help="install this package instead of building one")

    test = commands.add_parser("test", help="run the scenarios: all the usual ones, those (or the themes) named, or `long`")
    test.set_defaults(command=_test)
    test.add_argument("names", nargs="*", metavar="NAME")
    test.add_argument("--list", action="store_true", help="say which there are, and run none")
    _platform(test)
    test.add_argument("--no-vm", action="store_true", help="run the hosts on this machine's own kernel")
    test.add_argument("--deb", metavar="FILE", help="install this package instead of building one")
    test.add_argument("--keep", action="store_true", help="leave the lab running afterwards")
    test.add_argument("--results", metavar="FILE", help="write there, as JSON, what each scenario came to")

    down = commands.add_parser("down", help="stop the lab and forget it; the image stays cached")
    down.set_defaults(command=_down)
    return parser


def _platform(parser):
    names = ", ".join(f"{one.name} ({one.text})" for one in platforms.PLATFORMS)
    parser.add_argument("--platform", metavar="NAME",
                        help=f"what the hosts are: {names}; by default what is up, else {platforms.DEFAULT.name}")


def _lab(options, *plan):
    """The lab that is up, which is of the platform asked for, or the one to be started."""
    platform = platforms.named(options.platform) if options.platform else None
    lab = Lab(*plan, platform=platform or platforms.DEFAULT)
    if platform and lab.platform != platform:
        raise LabError(f"the lab is up as {lab.platform.name}; `integration/lab down` first")
    return lab


def _up(options):
    try:
        lab = _lab(options, FleetPlan(options.hosts, options.reflectors))
    except ValueError as error:
        raise LabError(str(error)) from None
    ran_before = lab.is_up()
    if ran_before:
        say(f"already up with {', '.join(host.name for host in lab.hosts)}; refreshing")
    lab.refuse_if_impossible(options.no_vm)
    # built first: a mistake there should not cost a boot
    deb = None if options.no_product else fleet.package(options.deb)
    try:
        with step("whole lab"):
            lab.start(native=options.no_vm)
            if deb:
                fleet.deploy(lab, deb)
            fleet.launch_containers(lab)
    except BaseException:
        if not ran_before and not options.keep:
            say("stopping the lab again; --keep would leave it for a look")
            lab.stop(keep_logs=True)
        raise
    if not deb:
        say("up without the product: containers run, nothing connects them")
        return 0
    return _report(lab, wait=True)


def _running():
    lab = Lab()
    if not lab.is_up():
        raise LabError("the lab is not up; `integration/lab up` starts it")
    return lab


def _status(_options):
    lab = _running()
    print(table([["HOST", "ROLE", "ADDRESS"]] + [[host.name, host.role, host.address] for host in lab.hosts]))
    return _report(lab, wait=False)


def _report(lab, wait):
    # measured first: what the agents say afterwards is how things ended
    with step("who reaches whom"):
        reached = reach.until_complete(lab) if wait else reach.measure(lab)
    for host in lab.supervisors:
        print(f"\n== {host.name}: lxmesh status")
        said = host.run(["lxmesh", "status"], check=False)
        print((said.stdout + said.stderr).rstrip(), flush=True)
    for host in lab.reflectors:
        print(f"\n== {host.name}: {_sessions(host)}", flush=True)
    print()
    print(reach.as_table(reached), flush=True)
    if not all(reached.values()):
        raise LabError("not everybody reaches everybody (NO- above); `integration/lab exec sup1 -- "
                       "journalctl -u lxmesh-agent` is where to look first")
    return 0


def _sessions(host):
    """A reflector runs no agent: its state is that of its BGP sessions, in one line."""
    result = host.run(["vtysh", "-c", "show bgp l2vpn evpn summary json"], check=False)
    try:
        peers = json.loads(result.stdout).get("peers", {})
    except ValueError:
        return f"FRR does not answer: {(result.stdout + result.stderr).strip()}"
    states = sorted(f"{address} {peer.get('state')}" for address, peer in peers.items())
    return f"reflector, EVPN sessions: {', '.join(states) or 'none'}"


def _place(lab, name):
    if name == "machine":
        return lab.outside
    host, _, container = name.partition("/")
    return lab.host(host).container(container) if container else lab.host(host)


def _exec(options):
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words:
        raise LabError("nothing to run: integration/lab exec HOST -- CMD...")
    return _place(_running(), options.host).interact(words)


def _push(options):
    lab = _running()
    for name in options.files:
        path = pathlib.Path(name)
        mode = "0755" if os.access(path, os.X_OK) else "0644"
        lab.each(lab.hosts, lambda host: host.push(path, f"/root/{path.name}", mode))
    return 0


def _deploy(options):
    lab = _running()
    fleet.deploy(lab, fleet.package(options.deb))
    return 0


def _test(options):
    if options.list:
        print(table([["SCENARIO", "SHOWS THAT"], *run.listing()]))
        return 0
    lab = _lab(options)
    wanted = run.chosen(options.names, lab.platform)
    was_up = lab.is_up()
    report = None
    try:
        if not was_up:
            words = ["up", "--platform", lab.platform.name]
            words += (["--no-vm"] if options.no_vm else []) + (["--deb", options.deb] if options.deb else [])
            _up(_parser().parse_args(words))
            lab = Lab()
        elif options.deb:
            fleet.deploy(lab, fleet.package(options.deb))
        report = run.run(lab, wanted, options.results)
    finally:
        if not was_up and not options.keep:
            lab.stop(keep_logs=report is None or report.failed > 0)
    print(report.closing(), flush=True)
    return 1 if report.failed else 0


def _down(_options):
    lab = Lab()
    with step("stopping the lab"):
        lab.stop()
    return 0


# These change which hosts there are and what is on them.
_ALONE = (_up, _deploy, _test, _down)
