"""Each way in which the protocol can be broken is caught by the harness that is named for it."""

from __future__ import annotations

import pytest

from tests.crash.harness.mutants import MUTANTS, Mutant
from tests.crash.harness.places import Arena
from tests.crash.harness.report import names

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
# Hundreds of orders of threads: minutes, where the machine does something else as well.
IN_MINUTES = (
    "keys named by digest",
    "collector decides outside its transaction, no foreign keys",
    "delete by digest looks for an index before its lock",
)


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(each, id=each.name, marks=[pytest.mark.long] if each.name in IN_MINUTES else [])
        for each in MUTANTS
    ],
)
def test_mutant_is_caught(registries: Arena, mutant: Mutant) -> None:
    result = mutant.run(registries, mutant.apply)
    if result.skipped:
        pytest.skip(result.skipped)
    found = {failure.kind for failure in result.failures}
    print(f"{mutant.name}: {mutant.harness}: { ({kind: result.count(kind) for kind in sorted(found)}) }")
    assert found & mutant.kinds, f"{len(result.points)} points found {found}: {names(result.points)}"
