"""`integration/test [GROUP...]`: arguments in, exit status out.

0: each test passed, if need be when it was repeated; 1: some failed; 2: the tests cannot run here; 130, 143: ended
from outside.
"""

import argparse
import contextlib
import signal
import sys
import time
import traceback

from labkit.console import LabError
from labkit.lab import alone
from labkit.platforms import PLATFORMS
from labkit.report import FAILED, Report
from labkit.settings import REPOSITORY
from testkit import groups, remains
from testkit.machine import LABS, Machine


def main():
    sys.stdout.reconfigure(errors="backslashreplace")
    options = _arguments()
    names = options.groups or list(groups.USUAL)
    machine = Machine()
    print(machine.lines(), flush=True)
    if lacks := machine.lacks_always():
        return _refused(f"cannot run here: {lack}" for lack in lacks)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with remains.only_run(REPOSITORY) as (run, left):
            for one in left:
                print(f"left by a run that did not come to its end, and cleared away: {one}", flush=True)
            # what is cleared away took memory, and may have been a lab
            if lacks := Machine().lacks(names):
                return _refused(f"cannot run here: {lack}" for lack in lacks)
            with alone() if LABS & set(names) else contextlib.nullcontext():
                return _run(run, options.groups, options.platforms)
    except remains.Busy as busy:
        return _refused([f"another run is on this computer, and they would disturb each other: {busy}; wait for its end"])
    except LabError as error:
        return _refused([str(error)])


def _refused(reasons):
    for reason in reasons:
        print(f"integration/test: {reason}", file=sys.stderr)
    return 2


def _arguments():
    listing = "\n".join(f"  {name:9} {text}" for name, text in groups.GROUPS.items())
    parser = argparse.ArgumentParser(
        prog="integration/test", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Runs the tests, by default all groups but `long`. Installs what is missing.",
        epilog=f"groups:\n{listing}\n\n{__doc__.partition(chr(10) * 2)[2]}",
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP",
                        help="only these, in this order; after `platforms`, names of platforms may follow")
    options = parser.parse_args()
    known = [one.name for one in PLATFORMS]
    options.platforms = [name for name in known if name in options.groups]
    options.groups = [name for name in dict.fromkeys(options.groups) if name not in known]
    if options.platforms and "platforms" not in options.groups:
        parser.error(f"{options.platforms[0]} is a platform: `platforms {options.platforms[0]}` runs its scenarios")
    for name in options.groups:
        if name not in groups.GROUPS:
            parser.error(f"{name} is none of {', '.join(groups.GROUPS)}")
    return options


def _run(run, named, platforms):
    begun = time.monotonic()
    report = Report()
    runner = groups.Runner(report, run, platforms)
    ended = 0
    try:
        groups.install_packages()
        if not named:
            runner.attempt(runner.usual)
        for name in named:
            runner.attempt(getattr(runner, name))
    except KeyboardInterrupt:
        ended = 130
    except SystemExit as end:
        ended = end.code
    except Exception as error:
        traceback.print_exc()
        report.add("preparation", "packages", FAILED, str(error))
    print("\nminutes: " + "; ".join(f"{what} {minutes:.1f}" for what, minutes in runner.minutes.items())
          + f"; in all {(time.monotonic() - begun) / 60:.1f}")
    if ended:
        print("ended from outside: what is listed is not all")
    print(report.closing(), flush=True)
    return ended or (1 if report.failed else 0)


def _terminated(*_):
    raise SystemExit(143)


if __name__ == "__main__":
    sys.exit(main())
