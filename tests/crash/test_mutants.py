"""Each way in which the protocol can be broken is caught by the harness that is named for it."""

from __future__ import annotations

import pytest

from tests.crash.harness.mutants import MUTANTS, Mutant
from tests.crash.harness.places import Arena
from tests.crash.harness.report import names

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_caught(registries: Arena, mutant: Mutant) -> None:
    result = mutant.run(registries, mutant.apply)
    if result.skipped:
        pytest.skip(result.skipped)
    found = {failure.kind for failure in result.failures}
    print(f"{mutant.name}: {mutant.harness}: { ({kind: result.count(kind) for kind in sorted(found)}) }")
    assert found & mutant.kinds, f"{len(result.points)} points found {found}: {names(result.points)}"
