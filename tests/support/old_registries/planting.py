"""What plants of defects share: how one is described, and the content that goes bad."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.sources.storage import DefectKind
from tests.builders import DOCKER_LAYER, Json, LayoutBuilder, dumps, tar_layer

GOOD_TAG: Final = "good"
NOT_PLANTED: Final[frozenset[DefectKind]] = frozenset({"moved-here", "refused-here", "tags-gone"})
"""What no file says: it comes of what the new registry has, or had from an earlier run."""


class NamedDefect(Protocol):
    """What a report says of a defect; :class:`regmeta.sources.storage.Defect` is one."""

    @property
    def kind(self) -> str:
        """Its class."""

    @property
    def subject(self) -> str:
        """The tag, digest or path."""

    @property
    def detail(self) -> str:
        """The rest, in words."""


@dataclass(frozen=True, slots=True)
class Planted:
    """One defect that must be named: its kind, and *subject* or something of *also*.

    *tag* is the tag of the image, *digest* what it names. *comes* tells whether the image can be brought all
    the same. *good* is the digest of :data:`GOOD_TAG`, which stands beside it in a repository of its own, and
    comes in any case.
    """

    kind: DefectKind
    repository: str
    subject: str
    also: frozenset[str] = frozenset()
    tag: str | None = None
    digest: str | None = None
    comes: bool = False
    good: str | None = None

    def is_named_in(self, defects: Iterable[NamedDefect]) -> bool:
        """Tell whether one of the defects of its repository is this one."""
        names = {self.subject, *self.also}
        return any(
            defect.kind == self.kind
            and (defect.subject in names or any(name in defect.detail for name in names))
            for defect in defects
        )


class Content:
    """Makes images that nobody else has, for one repository."""

    def __init__(self, repository: str, seed: str) -> None:
        self.repository = repository
        self.builder = LayoutBuilder()
        self._random = random.Random(seed)

    def layer(self) -> bytes:
        return tar_layer(self._random.randbytes(200), "planted")

    def image(self, platform: Json | None = None, **fields: Any) -> Json:
        return self.builder.image([self.layer(), self.layer()], platform=platform, **fields)

    def planted(
        self,
        kind: DefectKind,
        tag: str,
        digest: str,
        *also: str,
        subject: str | None = None,
        comes: bool = False,
    ) -> Planted:
        """Describe a defect of this repository that may be named by its tag or digest as well."""
        names = frozenset({tag, digest, *also})
        return Planted(kind, self.repository, subject or tag, names, tag, digest, comes)


def turned(content: bytes) -> bytes:
    """Return content of the same length with one bit turned in its middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def schema_1(repository: str, tag: str, layers: list[str], *, signed: bool) -> bytes:
    """Return a manifest of Docker schema 1, with what looks like a signature if *signed*.

    A docker-registry keeps it without, and has signatures in a folder of their own.
    """
    signature = {"header": {"alg": "ES256"}, "signature": "AAAA", "protected": "eyJmb3JtYXRMZW5ndGgiOjF9"}
    document = {
        "schemaVersion": 1,
        "name": repository,
        "tag": tag,
        "architecture": "amd64",
        "fsLayers": [{"blobSum": digest} for digest in layers],
        "history": [{"v1Compatibility": json.dumps({"id": digest[7:]})} for digest in layers],
    }
    return json.dumps({**document, **({"signatures": [signature]} if signed else {})}, indent=3).encode()


def old_artifact(blob: Json) -> bytes:
    """Return an artifact manifest as OCI's image-spec 1.1 had it before it was released, with one blob."""
    return dumps(
        {
            "mediaType": "application/vnd.oci.artifact.manifest.v1+json",
            "artifactType": "application/spdx+json",
            "blobs": [blob],
        }
    )


def foreign_image(builder: LayoutBuilder, layer: bytes) -> tuple[Json, str]:
    """Add an image of Docker's types with a layer that lies elsewhere; return it and that layer's digest."""
    foreign = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": str(Digest.of(b"elsewhere" + layer)),
        "size": 1_534_685_324,
        "urls": ["https://layers.example.com/windows/base.tar.gz"],
    }
    layers = [foreign, builder.blob(layer, DOCKER_LAYER)]
    config = builder.config(layers, {"architecture": "amd64", "os": "windows"})
    config["mediaType"] = media_types.DOCKER_CONFIG
    return builder.image(layers, config, mediaType=media_types.DOCKER_MANIFEST), str(foreign["digest"])
