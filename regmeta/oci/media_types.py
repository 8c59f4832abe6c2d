"""Media types.

They are open data: a type that is not named here is kept, listed and served as it came. Only what
the types below *mean* (which bytes are an index, which layers may be absent) is decided by name.
"""

from __future__ import annotations

import re
from typing import Final

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY: Final = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_SCHEMA1: Final = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)

IMAGE_MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
IMAGE_CONFIGS: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})

# Layers that a registry may be without (image-spec layer.md, "Non-Distributable Layers").
NON_DISTRIBUTABLE: Final = frozenset(
    {
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
)

# RFC 6838, section 4.2: type and subtype are restricted names of at most 127 characters.
_GRAMMAR = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


def telling_artifact_type(effective: str | None) -> str | None:
    """Return an artifact type where it says something: of a container image it is its configuration's."""
    return None if effective in IMAGE_CONFIGS else effective


def is_media_type(text: str) -> bool:
    """Tell whether *text* is of the grammar of media types (RFC 6838, section 4.2)."""
    return _GRAMMAR.fullmatch(text) is not None
