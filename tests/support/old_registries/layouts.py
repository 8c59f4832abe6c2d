"""Folders of OCI layouts: as zot keeps its registry, and as other tools leave them.

zot has a layout for each repository. ``index.json`` is its table of tags: an entry for each tag, and one
without a name for each manifest that was put by its digest, so for the children of an index. A tag that is
set anew takes its old entry with it. Where a blob is in several repositories, only one file has its bytes:
on a disk the others are hard links to it, in a bucket they are empty and a database says where the bytes are.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from regmeta.oci import media_types
from regmeta.oci.descriptor import REF_NAME
from regmeta.oci.digest import Digest
from tests.builders import Json, LayoutBuilder, digest_of, dumps, make_layout
from tests.support.old_registries.content import LAYER_BYTES, Put, Step, steps
from tests.support.old_registries.docker import SKOPEO_COPY
from tests.support.old_registries.served import Served

OCI_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'


def zot_folder(
    folder: Path,
    images: int = 300,
    *,
    seed: int = 0,
    layer_bytes: int = LAYER_BYTES,
    placeholders: bool = False,
) -> Served:
    """Write a tree as zot keeps it, and return what zot would serve: of manifests, what ``index.json`` lists.

    With *placeholders* it is as in a bucket: of equal blobs one has content, the others are empty files.
    Which one has it depends on *seed*; it may be that of a repository that comes later.
    """
    writer = _Zot(folder, placeholders=placeholders, seed=seed)
    for step in steps(images, seed=seed, layer_bytes=layer_bytes):
        writer.do(step)
    writer.finish()
    leave_behind(folder)
    return Served(
        folder,
        {name: tags for name, entries in writer.listed.items() if (tags := _tags(entries))},
        {name: _digests(entries) for name, entries in writer.listed.items() if entries},
        {
            name: gone
            for name, known in writer.known.items()
            if (gone := known - _digests(writer.listed[name]))
        },
    )


def layouts_folder(folder: Path, images: int = 6, *, seed: int = 0) -> Served:
    """Write a tree of layouts as several tools make them; skopeo and umoci where they are installed.

    Only what ``index.json`` lists is in the answer.
    """
    plain = make_layout(folder / "built/plain", images, seed=seed)
    make_layout(folder / "built/docker", images, docker=True, seed=seed + 1)
    make_layout(folder / "built/nested", 2, nested=True, seed=seed + 2)
    if shutil.which("skopeo"):
        copied = folder / "copied/by-skopeo"
        copied.mkdir(parents=True)
        for tag in plain:
            _tool(*SKOPEO_COPY, f"oci:{folder}/built/plain:{tag}", f"oci:{copied}:{tag}")
    if shutil.which("umoci"):
        made = folder / "made/by-umoci"
        made.parent.mkdir()
        _tool("umoci", "init", "--layout", str(made))
        for tag in ("one", "two"):
            _tool("umoci", "new", "--image", f"{made}:{tag}")
            _tool("umoci", "config", "--image", f"{made}:{tag}", f"--config.label=tag={tag}-{seed}")
    listed = {
        str(path.parent.relative_to(folder)): read_index(path.parent)["manifests"]
        for path in sorted(folder.glob("*/*/index.json"))
    }
    return Served(
        folder,
        {name: _tags(entries) for name, entries in listed.items()},
        {name: _digests(entries) for name, entries in listed.items()},
        {},
    )


def read_index(layout: Path) -> Json:
    """Return the ``index.json`` of a layout."""
    found: Json = json.loads((layout / "index.json").read_bytes())
    return found


def write_index(layout: Path, entries: list[Json]) -> None:
    """Write the ``index.json`` of a layout."""
    (layout / "index.json").write_bytes(dumps({"schemaVersion": 2, "manifests": entries}))


def blob_path(layout: Path, digest: str) -> Path:
    """Return the file of a blob of a layout."""
    return layout / "blobs" / digest.replace(":", "/")


def leave_behind(root: Path) -> None:
    """Leave what zot leaves in its folder and what is no repository: staging, uploads, databases."""
    for name in ("cache.db", "meta.db"):
        (root / name).write_bytes(b"\0" * 4096)
    (root / "_trivy").mkdir()
    (root / "_trivy/metadata.json").write_bytes(b"{}")
    (root / "_restore_complete").write_bytes(b"")
    layout = next(path.parent for path in sorted(root.rglob("index.json")))
    (layout / ".uploads/6a3c2d5e-98b1-4f0a-9a65-0d4a2d0cbf70").write_bytes(b"half of a layer")
    (layout / ".uploads/index.json.1b2c3d").write_bytes(b'{"schemaVersion":2,"manif')
    staged = layout / ".sync/0f6c8f8e-2a0b-4a58-8f4c-0c4f3f4f7a11/staged"
    make_layout(staged, 1, seed=77)
    staging_only = root / "mirrored/never-committed/.sync/11d3c1d4-6b1f-4a37-9d0a-3c7c1f9d2b55/app"
    make_layout(staging_only, 1, seed=78)


@dataclass
class _Zot:
    root: Path
    placeholders: bool
    seed: int
    listed: dict[str, list[Json]] = field(default_factory=lambda: defaultdict(list))
    known: dict[str, frozenset[Digest]] = field(default_factory=lambda: defaultdict(frozenset))
    places: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    def do(self, step: Step) -> None:
        entries = self.listed[step.repository]
        for put in step.puts:
            self._blobs(step, put)
            self._list(step.repository, put.descriptor, put.tag)
            for child in _children(step.builder, put.descriptor):
                self._list(step.repository, child, None)
        for digest in step.deletes:
            entries[:] = [entry for entry in entries if entry["digest"] != digest]

    def _list(self, repository: str, descriptor: Json, tag: str | None) -> None:
        entries = self.listed[repository]
        row = {key: descriptor[key] for key in ("mediaType", "digest", "size")}
        self.known[repository] |= {digest_of(row)}
        if tag is None:
            if all(entry["digest"] != row["digest"] for entry in entries):
                entries.append(row)
            return
        entries[:] = [
            entry
            for entry in entries
            if _tag(entry) != tag and (entry["digest"] != row["digest"] or _tag(entry) is not None)
        ]
        entries.append({**row, "annotations": {REF_NAME: tag}})

    def _blobs(self, step: Step, put: Put) -> None:
        """Write all that a manifest names; what a client deleted since may lie on, as it does in zot."""
        for digest in _named(step.builder, put.descriptor):
            path = blob_path(self.root / step.repository, digest)
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.places[digest] and not self.placeholders:
                os.link(self.places[digest][0], path)
            else:
                path.write_bytes(step.builder.blobs[digest])
            self.places[digest].append(path)

    def finish(self) -> None:
        chosen = random.Random(f"{self.seed} originals")
        for paths in self.places.values():
            original = chosen.choice(paths)
            for path in paths:
                if self.placeholders and path != original:
                    path.write_bytes(b"")
        for repository, entries in self.listed.items():
            layout = self.root / repository
            (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
            (layout / ".uploads").mkdir(exist_ok=True)
            (layout / "oci-layout").write_bytes(OCI_LAYOUT)
            write_index(layout, entries)
        for path in self.root.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)


def _tag(entry: Json) -> str | None:
    found: str | None = entry.get("annotations", {}).get(REF_NAME)
    return found


def _tags(entries: list[Json]) -> dict[str, Digest]:
    return {tag: digest_of(entry) for entry in entries if (tag := _tag(entry)) is not None}


def _digests(entries: list[Json]) -> frozenset[Digest]:
    return frozenset(map(digest_of, entries))


def _document(builder: LayoutBuilder, descriptor: Json) -> Json:
    found: Json = json.loads(builder.blobs[descriptor["digest"]])
    return found


def _children(builder: LayoutBuilder, descriptor: Json) -> Iterator[Json]:
    for child in _document(builder, descriptor).get("manifests", []):
        yield child
        yield from _children(builder, child)


def _named(builder: LayoutBuilder, descriptor: Json) -> Iterator[str]:
    document = _document(builder, descriptor)
    for child in document.get("manifests", []):
        yield from _named(builder, child)
    for blob in [document.get("config"), *document.get("layers", [])]:
        if blob is not None and blob["mediaType"] not in media_types.NON_DISTRIBUTABLE:
            yield blob["digest"]
    yield descriptor["digest"]


def _tool(*command: str) -> None:
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=work)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr}")
