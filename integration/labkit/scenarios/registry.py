"""The list of tests."""

import dataclasses
import typing

_SCENARIOS = []


@dataclasses.dataclass(frozen=True)
class Scenario:
    name: str
    text: str  # what it shows, one line
    run: typing.Callable
    usual: bool = True  # else only when it is named
    seldom: bool = False  # not in every run: only when it is named, or all of a platform's are to be run
    needs: str = ""  # a trait, only on platforms that have it

    def fits(self, platform):
        return not self.needs or self.needs in platform.traits


class Failure(Exception):
    """An assertion that does not hold; the text has what was seen."""


def scenario(name, usual=True, seldom=False, needs=""):
    """Registers a test under a name, for every run or for those that name it, and for every platform or for those that
    have what it needs (a trait of labkit.platforms); the first line of its docstring says what it shows. What other
    tests show in every run, in namespaces or by something that is much like it, is `seldom` shown once more."""

    def register(function):
        text = (function.__doc__ or "").strip().splitlines()[0]
        _SCENARIOS.append(Scenario(name, text, function, usual, seldom, needs))
        return function

    return register


def all_scenarios():
    return list(_SCENARIOS)


def check(condition, text):
    """Fails with `text`, which may be a function that makes it, unless `condition` holds."""
    if not condition:
        raise Failure(text() if callable(text) else text)
