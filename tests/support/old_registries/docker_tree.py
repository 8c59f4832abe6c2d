"""The files of a docker-registry, written by hand: what no registry would write, or not so fast.

The names are those that distribution uses (``registry/storage/paths.go`` of its 2.x).
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from tests.builders import Json, LayoutBuilder

FIRST_PUSH: Final = datetime(2021, 3, 1, tzinfo=UTC)


class DockerTree:
    """The tree below a root that holds ``docker/registry/v2``. Nothing is flushed."""

    def __init__(self, root: Path) -> None:
        self.v2 = root / "docker/registry/v2"

    # --- paths --------------------------------------------------------------------------------

    def folder(self, repository: str) -> Path:
        """Return the folder of a repository."""
        return self.v2 / "repositories" / repository

    def data(self, digest: str) -> Path:
        """Return the file of a blob."""
        algorithm, _, digits = digest.partition(":")
        return self.v2 / "blobs" / algorithm / digits[:2] / digits / "data"

    def layer_link(self, repository: str, digest: str) -> Path:
        """Return the file that says that a repository has a blob."""
        return self.folder(repository) / "_layers" / digest.replace(":", "/") / "link"

    def revision_link(self, repository: str, digest: str) -> Path:
        """Return the file that says that a repository has a manifest."""
        return self.folder(repository) / "_manifests/revisions" / digest.replace(":", "/") / "link"

    def tag_folder(self, repository: str, tag: str) -> Path:
        """Return the folder of a tag."""
        return self.folder(repository) / "_manifests/tags" / tag

    def tag_link(self, repository: str, tag: str) -> Path:
        """Return the file that says what a tag names."""
        return self.tag_folder(repository, tag) / "current/link"

    # --- reading ------------------------------------------------------------------------------

    def repositories(self) -> list[str]:
        """Return the repositories that have a manifest."""
        top = self.v2 / "repositories"
        return sorted(str(found.parent.relative_to(top)) for found in top.rglob("_manifests"))

    def tags(self, repository: str) -> dict[str, Digest]:
        """Return the tags of a repository that is whole."""
        links = (self.folder(repository) / "_manifests/tags").glob("*/current/link")
        return {link.parent.parent.name: Digest.parse(link.read_text()) for link in sorted(links)}

    # --- writing ------------------------------------------------------------------------------

    def image(self, repository: str, builder: LayoutBuilder, descriptor: Json, tag: str | None) -> None:
        """Write an image with all that the builder has of it."""
        digest = descriptor["digest"]
        document = json.loads(builder.blobs[digest])
        for child in document.get("manifests", []):
            self.image(repository, builder, child, None)
        for blob in [document.get("config"), *document.get("layers", [])]:
            if blob is None or blob.get("mediaType") in media_types.NON_DISTRIBUTABLE:
                continue
            self.blob(blob["digest"], builder.blobs[blob["digest"]])
            _write(self.layer_link(repository, blob["digest"]), blob["digest"])
        self.manifest(repository, digest, builder.blobs[digest])
        if tag is not None:
            self.tag(repository, tag, digest)

    def manifest(self, repository: str, digest: str, content: bytes) -> None:
        """Write the bytes of a manifest, and that a repository has it."""
        self.blob(digest, content)
        _write(self.revision_link(repository, digest), digest)

    def blob(self, digest: str, content: bytes) -> None:
        """Write the bytes of a blob, whatever they are."""
        path = self.data(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def tag(self, repository: str, tag: str, digest: str) -> None:
        """Set a tag, as a push does."""
        folder = self.tag_folder(repository, tag)
        _write(folder / "index" / digest.replace(":", "/") / "link", digest)
        _write(folder / "current/link", digest)

    def add_tags(self, repository: str, count: int, *, seed: int = 0) -> dict[str, Digest]:
        """Add so many tags of few images to a repository, and return them: a second for 10,000."""
        builder = LayoutBuilder(seed=seed)
        images = [builder.image([random.Random(f"{seed} {n}").randbytes(32)]) for n in range(5)]
        for image in images:
            self.image(repository, builder, image, None)
        found: dict[str, Digest] = {}
        for number in range(count):
            digest = images[number % len(images)]["digest"]
            self.tag(repository, f"build-{number:06d}", digest)
            found[f"build-{number:06d}"] = Digest.parse(digest)
        return found

    def spread_times(self, *, seed: int = 0) -> Mapping[Path, datetime]:
        """Give the links of all tags and manifests times of some years, as if pushed then; return them."""
        found: dict[Path, datetime] = {}
        made = random.Random(f"{seed} times")
        for link in sorted((self.v2 / "repositories").rglob("_manifests/**/link")):
            when = FIRST_PUSH + timedelta(seconds=made.randrange(150_000_000))
            os.utime(link, (when.timestamp(), when.timestamp()))
            found[link] = when
        return found


def _write(path: Path, digest: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(digest)
