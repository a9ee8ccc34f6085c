"""The first cases of benchmarks/fuzz.py: whatever a file holds, it is read or refused with its place."""

import resource
import time
from pathlib import Path

import pytest

from benchmarks.cases import KINDS, run_case

CASES = 150  # benchmarks/fuzz.py runs thousands
PARTS = 3
SECONDS = 2.0
MEBIBYTES = 2048


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_broken_is_refused_or_read(kind: str, part: int, tmp_path: Path) -> None:
    outcomes: dict[str, int] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(part, CASES, PARTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        start = time.process_time()
        found = run_case(kind, number, folder)
        seconds = time.process_time() - start
        place = f"{kind} case {number} ({found.mutation})"
        assert not found.outcome.startswith("FAULT"), f"{place}: {found.outcome}: {found.message}"
        assert seconds < SECONDS, f"{place} took {seconds:.1f} s"
        outcomes[found.outcome] = outcomes.get(found.outcome, 0) + 1
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEBIBYTES
    assert outcomes.get("read", 0) > 0
    assert len(outcomes) > 1 or kind == "labels"
