"""What goes wrong with folders of layouts in the field, planted into a good one (see :mod:`.defects`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from regmeta.oci import media_types
from regmeta.oci.descriptor import REF_NAME
from tests.builders import ARM64, Json, dumps
from tests.support.old_registries.layouts import OCI_LAYOUT, blob_path, read_index, write_index
from tests.support.old_registries.planting import (
    GOOD_TAG,
    Content,
    Planted,
    foreign_image,
    old_artifact,
    schema_1,
    turned,
)


def plant_in_layouts(folder: Path, *, seed: int = 0) -> list[Planted]:
    """Plant every defect that a tree of layouts can have, and return what must be named.

    *folder* is as :func:`~tests.support.old_registries.layouts.zot_folder` fills it. As with a
    docker-registry, each goes into a layout of its own, and what is about one image into a good one too.
    """
    good = _layouts(folder)
    found: list[Planted] = []
    for name, spoil in _OF_ONE_IMAGE.items():
        maker = _Maker(folder, f"planted/{name}", f"{seed} {name}")
        beside = maker.write(maker.image(), GOOD_TAG)
        found.append(replace(spoil(maker, "broken"), good=beside))
        if good:
            host = good[len(found) % len(good)]
            found.append(spoil(_Maker(folder, host, f"{seed} {name} in {host}"), f"planted-{name}"))
    for name, spoil in _OF_A_LAYOUT.items():
        found.append(spoil(_Maker(folder, f"planted/{name}", f"{seed} {name}"), "broken"))
    return found


def _layouts(folder: Path) -> list[str]:
    """Return the layouts that list something, but none of a staging area."""
    found = [path.parent.relative_to(folder) for path in sorted(folder.rglob("index.json"))]
    return [
        str(path)
        for path in found
        if not any(part.startswith(".") for part in path.parts) and read_index(folder / path)["manifests"]
    ]


class _Maker(Content):
    """Adds whole images to one layout, of content that nobody else has."""

    def __init__(self, root: Path, repository: str, seed: str) -> None:
        super().__init__(repository, seed)
        self.root = root

    @property
    def layout(self) -> Path:
        return self.root / self.repository

    def path(self, digest: str) -> Path:
        return blob_path(self.layout, digest)

    def blobs(self) -> None:
        """Write all blobs of the builder that are not there."""
        self.layout.mkdir(parents=True, exist_ok=True)
        (self.layout / ".uploads").mkdir(exist_ok=True)
        (self.layout / "oci-layout").write_bytes(OCI_LAYOUT)
        for digest, content in self.builder.blobs.items():
            path = self.path(digest)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(content)

    def list(self, *entries: Any) -> None:
        """Add entries to the table of tags, whatever they are."""
        there = read_index(self.layout)["manifests"] if (self.layout / "index.json").exists() else []
        write_index(self.layout, [*there, *entries])

    def write(self, descriptor: Json, tag: str) -> str:
        self.blobs()
        self.list(entry(descriptor, tag))
        return str(descriptor["digest"])

    def write_bytes(self, content: bytes, media_type: str, tag: str) -> str:
        """Write bytes as they are, and list them as a manifest of this type."""
        return self.write(self.builder.blob(content, media_type), tag)


def entry(descriptor: Json, tag: str) -> Json:
    """Return a row of the table of tags."""
    row = {key: descriptor[key] for key in ("mediaType", "digest", "size")}
    return {**row, "annotations": {REF_NAME: tag}}


# --- one image --------------------------------------------------------------------------------


def _bad_tag_name(maker: _Maker, tag: str) -> Planted:
    name = f"-{tag} 1"
    digest = maker.write(maker.image(), name)
    return Planted("bad-tag-name", maker.repository, name, frozenset({digest}), name, digest)


def _missing_manifest(maker: _Maker, tag: str) -> Planted:
    digest = maker.write(maker.image(), tag)
    maker.path(digest).unlink()
    return maker.planted("missing-manifest", tag, digest)


def _turned_manifest(maker: _Maker, tag: str) -> Planted:
    digest = maker.write(maker.image(annotations={"org.example.text": "a" * 2000}), tag)
    maker.path(digest).write_bytes(turned(maker.builder.blobs[digest]))
    return maker.planted("damaged-manifest", tag, digest)


def _cut_manifest(maker: _Maker, tag: str) -> Planted:
    digest = maker.write(maker.image(), tag)
    maker.path(digest).write_bytes(maker.builder.blobs[digest][:-30])
    return maker.planted("damaged-manifest", tag, digest)


def _invalid_manifest(maker: _Maker, tag: str) -> Planted:
    content = b"<html>" + maker.layer()[:600].hex().encode() + b"</html>"
    return maker.planted("invalid-manifest", tag, maker.write_bytes(content, media_types.OCI_MANIFEST, tag))


def _schema_1(maker: _Maker, tag: str) -> Planted:
    layer = maker.builder.blob(maker.layer())["digest"]
    content = schema_1(maker.repository, tag, [layer], signed=True)
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    return maker.planted("schema-1", tag, maker.write_bytes(content, kind, tag))


def _entry_of_no_type(maker: _Maker, tag: str) -> Planted:
    """Of a descriptor the type is required (image-spec, "Content Descriptors"); in a manifest it is not."""
    digest = maker.write({**maker.image(), "mediaType": ""}, tag)
    return maker.planted("bad-entry", tag, digest)


def _unknown_media_type(maker: _Maker, tag: str) -> Planted:
    content = old_artifact(maker.builder.blob(maker.layer()))
    kind = "application/vnd.oci.artifact.manifest.v1+json"
    return maker.planted("unknown-media-type", tag, maker.write_bytes(content, kind, tag))


def _lost_child(maker: _Maker, tag: str) -> Planted:
    child = maker.image(ARM64)
    digest = maker.write(maker.builder.index([maker.image(), child]), tag)
    maker.path(child["digest"]).unlink()
    return maker.planted("broken-index-child", tag, digest, subject=child["digest"], comes=True)


def _image_and_layer(maker: _Maker, tag: str) -> tuple[str, str]:
    layer = maker.builder.layer(maker.layer())
    return maker.write(maker.builder.image([layer]), tag), layer["digest"]


def _missing_layer(maker: _Maker, tag: str) -> Planted:
    digest, blob = _image_and_layer(maker, tag)
    maker.path(blob).unlink()
    return maker.planted("missing-blob", tag, digest, subject=blob)


def _missing_config(maker: _Maker, tag: str) -> Planted:
    layer = maker.builder.layer(maker.layer())
    config = maker.builder.config([layer], None, Labels={"of": tag})
    digest = maker.write(maker.builder.image([layer], config), tag)
    maker.path(config["digest"]).unlink()
    return maker.planted("missing-blob", tag, digest, subject=config["digest"])


def _unfilled_placeholder(maker: _Maker, tag: str) -> Planted:
    """Deduplication emptied the file, and the one that had the bytes is gone."""
    digest, blob = _image_and_layer(maker, tag)
    maker.path(blob).write_bytes(b"")
    return maker.planted("unfilled-placeholder", tag, digest, subject=blob)


def _unfilled_manifest(maker: _Maker, tag: str) -> Planted:
    digest = maker.write(maker.image(), tag)
    maker.path(digest).write_bytes(b"")
    return maker.planted("unfilled-placeholder", tag, digest)


def _turned_layer(maker: _Maker, tag: str) -> Planted:
    digest, blob = _image_and_layer(maker, tag)
    maker.path(blob).write_bytes(turned(maker.builder.blobs[blob]))
    return maker.planted("damaged-blob", tag, digest, subject=blob)


def _cut_layer(maker: _Maker, tag: str) -> Planted:
    digest, blob = _image_and_layer(maker, tag)
    maker.path(blob).write_bytes(maker.builder.blobs[blob][:-100])
    return maker.planted("damaged-blob", tag, digest, subject=blob)


def _foreign_layer(maker: _Maker, tag: str) -> Planted:
    image, foreign = foreign_image(maker.builder, maker.layer())
    return maker.planted("foreign-layer", tag, maker.write(image, tag), subject=foreign, comes=True)


def _entry_without_digest(maker: _Maker, tag: str) -> Planted:
    image = maker.image()
    maker.blobs()
    row = entry(image, tag)
    del row["digest"]
    maker.list(row)
    return Planted("bad-entry", maker.repository, tag, frozenset({"index.json"}), tag)


def _entry_of_no_object(maker: _Maker, tag: str) -> Planted:
    image = maker.image()
    maker.blobs()
    maker.list(f"{tag}@{image['digest']}")
    also = frozenset({tag, image["digest"], "manifests"})
    return Planted("bad-entry", maker.repository, "index.json", also, tag)


def _listed_twice(maker: _Maker, tag: str) -> Planted:
    """Two writers on one bucket: each added its row. Which one comes is for the reader to say."""
    first, last = maker.image(), maker.image()
    maker.blobs()
    maker.list(entry(first, tag), entry(last, tag))
    also = frozenset({str(first["digest"]), str(last["digest"])})
    return Planted("tag-listed-twice", maker.repository, tag, also, tag, comes=True)


_OF_ONE_IMAGE: Final[dict[str, Callable[[_Maker, str], Planted]]] = {
    "bad-tag-name": _bad_tag_name,
    "missing-manifest": _missing_manifest,
    "turned-manifest": _turned_manifest,
    "cut-manifest": _cut_manifest,
    "invalid-manifest": _invalid_manifest,
    "schema-1": _schema_1,
    "entry-of-no-type": _entry_of_no_type,
    "unknown-media-type": _unknown_media_type,
    "lost-child": _lost_child,
    "missing-layer": _missing_layer,
    "missing-config": _missing_config,
    "unfilled-placeholder": _unfilled_placeholder,
    "unfilled-manifest": _unfilled_manifest,
    "turned-layer": _turned_layer,
    "cut-layer": _cut_layer,
    "foreign-layer": _foreign_layer,
    "entry-without-digest": _entry_without_digest,
    "entry-of-no-object": _entry_of_no_object,
    "listed-twice": _listed_twice,
}


# --- a layout ---------------------------------------------------------------------------------


def _bad_repository_name(maker: _Maker, tag: str) -> Planted:
    maker.repository = "Planted/UPPER"
    digest = maker.write(maker.image(), tag)
    return Planted("bad-repository-name", maker.repository, maker.repository, frozenset(), tag, digest)


def _index_file(maker: _Maker, tag: str, content: bytes) -> Planted:
    digest = maker.write(maker.image(), tag)
    (maker.layout / "index.json").write_bytes(content)
    names = frozenset({maker.repository})
    return Planted("bad-index-file", maker.repository, "index.json", names, tag, digest)


def _cut_index(maker: _Maker, tag: str) -> Planted:
    """What a full disk leaves."""
    return _index_file(maker, tag, dumps({"schemaVersion": 2, "manifests": [entry(maker.image(), tag)]})[:60])


def _empty_index(maker: _Maker, tag: str) -> Planted:
    return _index_file(maker, tag, b"")


def _other_index(maker: _Maker, tag: str) -> Planted:
    return _index_file(maker, tag, b'["no", "index"]')


def _folder_for_index(maker: _Maker, tag: str) -> Planted:
    digest = maker.write(maker.image(), tag)
    (maker.layout / "index.json").unlink()
    (maker.layout / "index.json").mkdir()
    names = frozenset({maker.repository})
    return Planted("bad-index-file", maker.repository, "index.json", names, tag, digest)


_OF_A_LAYOUT: Final[dict[str, Callable[[_Maker, str], Planted]]] = {
    "bad-repository-name": _bad_repository_name,
    "cut-index": _cut_index,
    "empty-index": _empty_index,
    "other-index": _other_index,
    "folder-for-index": _folder_for_index,
}
