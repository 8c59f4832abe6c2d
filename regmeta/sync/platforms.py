"""Which images of an index are wanted, by their platforms. The index keeps its digest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from regmeta.ingest.read_image import Wants
from regmeta.oci.conversion import REFERENCE_DIGEST
from regmeta.oci.descriptor import Descriptor, Platform
from regmeta.oci.manifest import Index

_UNKNOWN: Final = "unknown"
# The variant that is meant where none is written (containerd and Docker read it so).
_DEFAULT_VARIANTS: Final = {"amd64": "v1", "arm": "v7", "arm64": "v8"}


def wants(platforms: Sequence[str], index: Index, child: Descriptor) -> bool:
    """Tell whether *child*, an entry of *index*, is wanted where *platforms* are; with none, all is.

    A platform is ``os/architecture``, which means all its variants, or ``os/architecture/variant``. A child
    that says no platform is wanted. An attestation is wanted if the image that it is about is.
    """
    if not platforms:
        return True
    about = child.annotations.get(REFERENCE_DIGEST)
    if about is not None and _says_nothing(child.platform):
        return all(
            _is_wanted(platforms, each.platform) for each in index.manifests if str(each.digest) == about
        )
    return _is_wanted(platforms, child.platform)


def wants_of(platforms: Sequence[str]) -> Wants | None:
    """Return :func:`wants` for *platforms*, as the reader of an image takes it; None where all is wanted."""
    return partial(wants, platforms) if platforms else None


def wants_image(
    platforms: Sequence[str], os: str | None, architecture: str | None, variant: str | None = None
) -> bool:
    """Tell the same of an image that stands alone, by what its configuration says."""
    return not platforms or _is_wanted(platforms, Platform(os, architecture, variant))


def _is_wanted(platforms: Sequence[str], platform: Platform | None) -> bool:
    if platform is None or _says_nothing(platform):
        return True
    return any(_matches(wanted, platform) for wanted in platforms)


def _says_nothing(platform: Platform | None) -> bool:
    return platform is None or {platform.os, platform.architecture} <= {None, "", _UNKNOWN}


def _matches(wanted: str, platform: Platform) -> bool:
    os, architecture, variant = (*wanted.split("/"), "", "")[:3]
    if (os, architecture) != (platform.os, platform.architecture):
        return False
    default = _DEFAULT_VARIANTS.get(architecture, "")
    return not variant or variant == (platform.variant or default)
