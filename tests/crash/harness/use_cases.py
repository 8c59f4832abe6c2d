"""What is run under fire. Each use case does what a command does, and acknowledges what its caller is told.

To add one: what it starts from (a base), and a function that runs it. It must be right to run it again, on
what a crash left as well as on what it has done. Facts that the judge knows::

    tag REPOSITORY TAG DIGEST     the tag is this image, whole
    untagged REPOSITORY TAG       there is no such tag
    manifest REPOSITORY DIGEST    the image can be had by its digest
    exported NAME                 a layout of all tagged images lies in the place's folder
    status IMAGE STATUS           what an import said of an image
"""

from __future__ import annotations

from typing import Final

from tests.crash.harness.adopting_cases import ADOPTING_CASES
from tests.crash.harness.content_cases import CONTENT_CASES
from tests.crash.harness.deleting_cases import DELETING_CASES
from tests.crash.harness.maintenance_cases import MAINTENANCE_CASES
from tests.crash.harness.moving_cases import MOVING_CASES
from tests.crash.harness.sync_cases import SYNC_CASES
from tests.crash.harness.use_case import UseCase

USE_CASES: Final[tuple[UseCase, ...]] = (
    *CONTENT_CASES,
    *MAINTENANCE_CASES,
    *DELETING_CASES,
    *SYNC_CASES,
    *MOVING_CASES,
    *ADOPTING_CASES,
)


def use_case(name: str) -> UseCase:
    """Return the use case of this name."""
    return next(case for case in USE_CASES if case.name == name)
