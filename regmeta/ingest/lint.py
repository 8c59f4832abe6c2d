"""Rules that an image must keep before it is taken in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from regmeta.errors import LintFailed
from regmeta.ingest.plan import PlannedManifest
from regmeta.oci import media_types
from regmeta.oci.manifest import Manifest


def check_annotations(manifests: Iterable[PlannedManifest], mandatory: Sequence[str]) -> None:
    """Check that each container image says what it must, as an annotation or a label.

    Artifacts (signatures, SBOMs: any configuration that is not an image's) and indexes are not asked.

    Raises:
        LintFailed: one does not; names its digest and what is missing.
    """
    if not mandatory:
        return
    for planned in manifests:
        document = planned.document
        if isinstance(document, Manifest) and document.config.media_type in media_types.IMAGE_CONFIGS:
            said = document.annotations.keys() | planned.config.labels.keys()
            missing = [name for name in mandatory if name not in said]
            if missing:
                raise LintFailed(f"{document.digest}: has no annotation or label {', '.join(missing)}")
