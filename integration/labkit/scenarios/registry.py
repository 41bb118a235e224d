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


class Failure(Exception):
    """An assertion that does not hold; the text has what was seen."""


def scenario(name, usual=True):
    """Registers a test under a name, for every run or for those that name it; the first line of its docstring says what it shows."""

    def register(function):
        text = (function.__doc__ or "").strip().splitlines()[0]
        _SCENARIOS.append(Scenario(name, text, function, usual))
        return function

    return register


def all_scenarios():
    return list(_SCENARIOS)


def check(condition, text):
    """Fails with `text`, which may be a function that makes it, unless `condition` holds."""
    if not condition:
        raise Failure(text() if callable(text) else text)
