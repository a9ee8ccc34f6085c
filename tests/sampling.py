"""Which cases of a long table the tests take: a sample, or all with TESTS=all in the environment.

Two samples: `some`, of cases that take seconds each, always; and when the whole suite runs, a third of the
cases of every test that has many (`thinned`). What is named on the command line runs with all of those.
"""

import os
from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

import pytest

ALL = os.environ.get("TESTS") == "all"
MANY, STEP = 5, 3
Case = TypeVar("Case")


def some(cases: Iterable[Case], step: int = 2, start: int = 0) -> list[Case]:
    """Every `step`-th case, from number `start` on."""
    return list(cases)[0 if ALL else start :: 1 if ALL else step]


def thinned(items: Iterable[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """The tests that run, and those that do not: of each with over MANY cases every STEP-th one runs."""
    counts: dict[tuple[object, str], list[pytest.Item]] = defaultdict(list)
    for item in items:
        counts[item.parent, getattr(item, "originalname", item.name)].append(item)
    # another start for each test, so that tests with the same table take different cases
    kept = {
        id(item)
        for (_, name), cases in counts.items()
        for item in (cases if len(cases) <= MANY else cases[sum(map(ord, name)) % STEP :: STEP])
    }
    return [item for item in items if id(item) in kept], [item for item in items if id(item) not in kept]
