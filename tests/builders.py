"""Build OCI image layouts for tests: small, valid, and the same bytes for the same calls.

    builder = LayoutBuilder()
    image = builder.image(layers=[b"one", b"two"])
    builder.tag(builder.index([image, builder.image(platform=ARM64)]), "v1")
    builder.write(tmp_path / "layout")

Descriptors are plain JSON objects, so a test can spoil one before it goes into a document, and
``builder.blobs`` can be changed before ``write``: what is written is what stands in it.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from regmeta.oci import media_types
from regmeta.oci.descriptor import REF_NAME, Descriptor
from regmeta.oci.digest import Digest

Json = dict[str, Any]

AMD64: Json = {"architecture": "amd64", "os": "linux"}
ARM64: Json = {"architecture": "arm64", "os": "linux", "variant": "v8"}
S390X: Json = {"architecture": "s390x", "os": "linux"}
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
CREATED = "2024-01-01T00:00:00Z"


def dumps(value: object) -> bytes:
    """Return the compact JSON that builders write."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def digest_of(descriptor: Json) -> Digest:
    """Return the digest of a descriptor that is a JSON object."""
    return Digest.parse(descriptor["digest"])


def parsed(descriptor: Json) -> Descriptor:
    """Return a descriptor that is a JSON object as the value that sources take."""
    return Descriptor.parse(descriptor, "test")


def tar_layer(content: bytes, name: str = "file") -> bytes:
    """Return a layer that tools can unpack: a tar file of one member."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


class LayoutBuilder:
    """Collects blobs and entries, and writes them as a directory or as a tar file.

    *docker* makes images of Docker schema 2 and manifest lists. *seed* decides the random content:
    builders of one seed make the same layers in the same order.
    """

    def __init__(self, *, docker: bool = False, algorithm: str = "sha256", seed: int = 0) -> None:
        self.blobs: dict[str, bytes] = {}
        self.entries: list[Json] = []
        self._docker = docker
        self._algorithm = algorithm
        self._random = random.Random(seed)

    def blob(self, content: bytes, media_type: str = "application/octet-stream", **fields: Any) -> Json:
        """Add a blob; *fields* are further fields of the descriptor that is returned."""
        digest = f"{self._algorithm}:{hashlib.new(self._algorithm, content).hexdigest()}"
        self.blobs[digest] = content
        return {"mediaType": media_type, "digest": digest, "size": len(content), **fields}

    def document(self, value: Json, **fields: Any) -> Json:
        """Add a manifest or an index just as it is given, good or bad."""
        return self.blob(dumps(value), value.get("mediaType", media_types.OCI_MANIFEST), **fields)

    def layer(self, content: bytes | None = None) -> Json:
        """Add a layer: the bytes given, or a tar file with something random in it."""
        if content is None:
            content = tar_layer(self._random.randbytes(64))
        return self.blob(content, DOCKER_LAYER if self._docker else OCI_LAYER)

    def config(self, layers: Iterable[Json], platform: Json | None = None, **inner: Any) -> Json:
        """Add an image configuration; *inner* goes into its ``config``, as ``Labels`` does."""
        document = {
            "created": CREATED,
            **(AMD64 if platform is None else platform),
            "config": inner,
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }
        kind = media_types.DOCKER_CONFIG if self._docker else media_types.OCI_CONFIG
        return self.blob(dumps(document), kind)

    def image(
        self,
        layers: Iterable[bytes | Json] | None = None,
        config: Json | None = None,
        annotations: Mapping[str, str] | None = None,
        platform: Json | None = None,
        **fields: Any,
    ) -> Json:
        """Add an image and return its descriptor.

        *layers* are contents or descriptors of blobs that were added, two random ones if not given.
        *config* is a descriptor. *fields* are further fields of the manifest: ``subject``,
        ``artifactType``, or another value for one that is there anyway. The descriptor carries
        *platform*, and so does the configuration.
        """
        if layers is None:
            layers = [self.layer(), self.layer()]
        found = [self.layer(item) if isinstance(item, bytes) else item for item in layers]
        kind = media_types.DOCKER_MANIFEST if self._docker else media_types.OCI_MANIFEST
        document = {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": config or self.config(found, platform),
            "layers": found,
            **({"annotations": dict(annotations)} if annotations else {}),
            **fields,
        }
        return self.document(document, **({"platform": platform} if platform else {}))

    def artifact(self, content: bytes, artifact_type: str, subject: Json | None = None) -> Json:
        """Add an artifact of one layer, with the empty configuration."""
        config = self.blob(b"{}", media_types.OCI_EMPTY)
        fields: Json = {"artifactType": artifact_type}
        if subject is not None:
            fields["subject"] = {key: subject[key] for key in ("mediaType", "digest", "size")}
        return {**self.image([content], config, **fields), "artifactType": artifact_type}

    def index(
        self,
        children: Iterable[Json],
        annotations: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Json:
        """Add an index of manifests or of further indexes, and return its descriptor."""
        return self.document(
            {
                "schemaVersion": 2,
                "mediaType": media_types.DOCKER_LIST if self._docker else media_types.OCI_INDEX,
                "manifests": list(children),
                **({"annotations": dict(annotations)} if annotations else {}),
                **fields,
            }
        )

    def tag(self, descriptor: Json, name: str | None = None) -> Json:
        """List *descriptor* in ``index.json``, under *name* if there is one; return the entry."""
        entry = dict(descriptor)
        if name is not None:
            entry["annotations"] = {**entry.get("annotations", {}), REF_NAME: name}
        self.entries.append(entry)
        return entry

    def files(self) -> dict[str, bytes]:
        """Return the layout: relative path to content."""
        index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": self.entries}
        return {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": dumps(index),
            **{f"blobs/{digest.replace(':', '/')}": content for digest, content in self.blobs.items()},
        }

    def write(self, path: Path) -> Path:
        """Write the layout into the directory *path*, beside what is there already."""
        for name, content in self.files().items():
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        (path / "blobs" / self._algorithm).mkdir(parents=True, exist_ok=True)
        return path

    def write_tar(self, path: Path, tar_format: int = tarfile.PAX_FORMAT) -> Path:
        """Write the layout as an uncompressed tar file."""
        with tarfile.open(path, "w", format=tar_format) as archive:
            for name, content in self.files().items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path


def make_layout(
    path: Path,
    images: int | Mapping[str, Iterable[bytes]] = 2,
    *,
    platforms: Iterable[Json] = (),
    nested: bool = False,
    docker: bool = False,
    tar: bool = False,
    seed: int = 0,
) -> dict[str, Digest]:
    """Write a valid layout and return its tags with what they name.

    *images* is a number, for random images that are tagged ``v0``, ``v1`` and so on, or maps tags
    to the contents of layers. With *platforms*, each tag is an index with an image for each of
    them; with *nested*, each tag is an index of that.
    """
    builder = LayoutBuilder(docker=docker, seed=seed)
    wanted: Mapping[str, Iterable[bytes] | None] = (
        {f"v{number}": None for number in range(images)} if isinstance(images, int) else images
    )
    chosen = list(platforms)
    for name, contents in wanted.items():
        given = None if contents is None else [builder.layer(content) for content in contents]
        if chosen:
            made = builder.index([builder.image(given, platform=each) for each in chosen])
        else:
            made = builder.image(given)
        builder.tag(builder.index([made]) if nested else made, name)
    if tar:
        builder.write_tar(path)
    else:
        builder.write(path)
    return {entry["annotations"][REF_NAME]: digest_of(entry) for entry in builder.entries}
