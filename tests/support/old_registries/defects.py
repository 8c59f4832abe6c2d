"""What goes wrong with a docker-registry's storage in the field, planted into a good one.

    planted = plant(served.root)
    assert all(item.is_named_in(report.defects) for item in planted)

Each is made as the accident makes it: an image that is whole is written, then a file is lost, cut or changed.
Nothing that a good image uses is touched. A kind that is about one image is planted twice: in a repository
of its own beside a good tag, and under a tag of its own in a repository that was there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from regmeta.oci.digest import Digest
from tests.builders import ARM64, Json, dumps
from tests.support.old_registries.docker_tree import DockerTree
from tests.support.old_registries.planting import (
    GOOD_TAG,
    Content,
    Planted,
    foreign_image,
    old_artifact,
    schema_1,
    turned,
)


def plant(folder: Path, *, seed: int = 0) -> list[Planted]:
    """Plant every defect that a docker-registry's storage can have, and return what must be named.

    *folder* is the root, as :func:`~tests.support.old_registries.docker.docker_folder` fills it.
    """
    tree = DockerTree(folder)
    good = [name for name in tree.repositories() if tree.tags(name)]
    found: list[Planted] = []
    for name, spoil in _OF_ONE_IMAGE.items():
        own = f"planted/{name}"
        maker = _Maker(tree, own, f"{seed} {name}")
        beside = maker.write(maker.image(), GOOD_TAG)
        found.append(replace(spoil(maker, "broken"), good=beside))
        if good:
            host = good[len(found) % len(good)]
            found.append(spoil(_Maker(tree, host, f"{seed} {name} in {host}"), f"planted-{name}"))
    for name, spoil in _OF_A_REPOSITORY.items():
        found.append(spoil(_Maker(tree, f"planted/{name}", f"{seed} {name}"), "broken"))
    return found


def plant_leftovers(folder: Path) -> list[str]:
    """Leave behind what serves nothing, and return repositories of which nothing may come.

    Whether a report names them is for the report to decide; the rest of the registry must come. A repository
    whose images and tags were all deleted, one that only an upload began, one with folders that a deleted tag
    leaves, and files that no registry wrote.
    """
    tree = DockerTree(folder)
    maker = _Maker(tree, "leftover/soft-deleted", "leftovers")
    digest = maker.write(maker.image(), "v1")
    tree.revision_link(maker.repository, digest).unlink()
    shutil.rmtree(tree.tag_folder(maker.repository, "v1"))
    maker = _Maker(tree, "leftover/untagged-by-hand", "leftovers")
    digest = maker.write(maker.image(), "v1")
    tree.revision_link(maker.repository, digest).unlink()
    shutil.rmtree(tree.tag_folder(maker.repository, "v1") / "current")
    upload = tree.folder("leftover/upload-only") / "_uploads/2d0d7a2c-4a5e-4b57-9d6b-0f6d2f0b3c11"
    upload.mkdir(parents=True)
    (upload / "startedat").write_text("2021-03-01T00:00:00Z")
    (upload / "data").write_bytes(b"begun")
    for place in (tree.v2, tree.v2 / "repositories", tree.v2 / "blobs"):
        (place / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (place / "lost+found").mkdir()
    return ["leftover/soft-deleted", "leftover/untagged-by-hand", "leftover/upload-only"]


class _Maker(Content):
    """Writes whole images of one repository, of content that nobody else has."""

    def __init__(self, tree: DockerTree, repository: str, seed: str) -> None:
        super().__init__(repository, seed)
        self.tree = tree

    def document(self, descriptor: Json) -> Json:
        found: Json = json.loads(self.builder.blobs[descriptor["digest"]])
        return found

    def write(self, descriptor: Json, tag: str | None) -> str:
        self.tree.image(self.repository, self.builder, descriptor, tag)
        return str(descriptor["digest"])

    def manifest(self, content: bytes, tag: str) -> str:
        """Write bytes as they are as a tagged manifest, and return their digest."""
        digest = str(Digest.of(content))
        self.tree.manifest(self.repository, digest, content)
        self.tree.tag(self.repository, tag, digest)
        return digest


def lose_tags(folder: Path, repository: str, *, keep: int = 0) -> list[str]:
    """Lose the tags of a good repository but for the first *keep*, as half a backup does; return them."""
    tree = DockerTree(folder)
    lost = sorted(tree.tags(repository))[keep:]
    for tag in lost:
        shutil.rmtree(tree.tag_folder(repository, tag))
    return lost


# --- one image --------------------------------------------------------------------------------


def _bad_tag_name(maker: _Maker, tag: str) -> Planted:
    name = f"-{tag} 1"
    digest = maker.write(maker.image(), name)
    return Planted("bad-tag-name", maker.repository, name, frozenset(), name, digest)


def _empty_tag_link(maker: _Maker, tag: str) -> Planted:
    digest = maker.write(maker.image(), tag)
    maker.tree.tag_link(maker.repository, tag).write_bytes(b"")
    return Planted("empty-link", maker.repository, tag, frozenset(), tag, digest)


def _empty_revision_link(maker: _Maker, tag: str) -> Planted:
    digest = maker.write(maker.image(), tag)
    maker.tree.revision_link(maker.repository, digest).write_bytes(b"")
    return maker.planted("empty-link", tag, digest, subject=digest)


def _bad_tag_link(maker: _Maker, tag: str) -> Planted:
    digest = maker.write(maker.image(), tag)
    maker.tree.tag_link(maker.repository, tag).write_text("sha256:" + "z" * 64)
    return Planted("bad-link", maker.repository, tag, frozenset(), tag, digest)


def _cut_tag_link(maker: _Maker, tag: str) -> Planted:
    digest = maker.write(maker.image(), tag)
    maker.tree.tag_link(maker.repository, tag).write_text(digest[:40])
    return Planted("bad-link", maker.repository, tag, frozenset(), tag, digest)


def _wrong_revision_link(maker: _Maker, tag: str) -> Planted:
    digest, other = maker.write(maker.image(), tag), maker.write(maker.image(), None)
    maker.tree.revision_link(maker.repository, digest).write_text(other)
    return maker.planted("bad-link", tag, digest, subject=digest)


def _missing_manifest(maker: _Maker, tag: str) -> Planted:
    digest = maker.write(maker.image(), tag)
    maker.tree.data(digest).unlink()
    return maker.planted("missing-manifest", tag, digest)


def _unlinked_manifest(maker: _Maker, tag: str) -> Planted:
    digest = maker.write(maker.image(), tag)
    maker.tree.revision_link(maker.repository, digest).unlink()
    return maker.planted("unlinked-manifest", tag, digest)


def _turned_manifest(maker: _Maker, tag: str) -> Planted:
    image = maker.builder.image([maker.layer()], annotations={"org.example.text": "a" * 2000})
    digest = maker.write(image, tag)
    maker.tree.data(digest).write_bytes(turned(maker.builder.blobs[digest]))
    return maker.planted("damaged-manifest", tag, digest)


def _cut_manifest(maker: _Maker, tag: str) -> Planted:
    digest = maker.write(maker.image(), tag)
    maker.tree.data(digest).write_bytes(maker.builder.blobs[digest][:-30])
    return maker.planted("damaged-manifest", tag, digest)


def _emptied_manifest(maker: _Maker, tag: str) -> Planted:
    digest = maker.write(maker.image(), tag)
    maker.tree.data(digest).write_bytes(b"")
    return maker.planted("damaged-manifest", tag, digest)


def _invalid_manifest(maker: _Maker, tag: str) -> Planted:
    digest = maker.manifest(b"<html>" + maker.layer()[:600].hex().encode() + b"</html>", tag)
    return maker.planted("invalid-manifest", tag, digest)


def _both_kinds(maker: _Maker, tag: str) -> Planted:
    """An image that is an index as well (CVE-2021-41190)."""
    image = maker.image()
    maker.write(image, None)
    digest = maker.manifest(dumps({**maker.document(image), "manifests": [image]}), tag)
    return maker.planted("invalid-manifest", tag, digest)


def _schema_1(maker: _Maker, tag: str) -> Planted:
    image = maker.image()
    maker.write(image, None)
    layers = [layer["digest"] for layer in maker.document(image)["layers"]]
    digest = maker.manifest(schema_1(maker.repository, tag, layers, signed=False), tag)
    signature = Digest.of(digest.encode())
    link = (
        maker.tree.revision_link(maker.repository, digest).parent / f"signatures/sha256/{signature.hex}/link"
    )
    link.parent.mkdir(parents=True)
    link.write_text(str(signature))
    return maker.planted("schema-1", tag, digest)


def _empty_media_type(maker: _Maker, tag: str) -> Planted:
    image = maker.image()
    maker.write(image, None)
    digest = maker.manifest(dumps({**maker.document(image), "mediaType": ""}), tag)
    return maker.planted("empty-media-type", tag, digest, comes=True)


def _unknown_media_type(maker: _Maker, tag: str) -> Planted:
    blob = maker.builder.blob(maker.layer())
    maker.write(maker.builder.image([blob]), None)  # it brings the blob
    return maker.planted("unknown-media-type", tag, maker.manifest(old_artifact(blob), tag))


def _index(maker: _Maker, tag: str) -> tuple[str, str]:
    child = maker.image(ARM64)
    return maker.write(maker.builder.index([maker.image(), child]), tag), child["digest"]


def _deleted_child(maker: _Maker, tag: str) -> Planted:
    digest, child = _index(maker, tag)
    maker.tree.revision_link(maker.repository, child).unlink()
    return maker.planted("broken-index-child", tag, digest, child, subject=child, comes=True)


def _lost_child(maker: _Maker, tag: str) -> Planted:
    digest, child = _index(maker, tag)
    maker.tree.revision_link(maker.repository, child).unlink()
    maker.tree.data(child).unlink()
    return maker.planted("broken-index-child", tag, digest, child, subject=child, comes=True)


def _blob_of(maker: _Maker, tag: str, member: str) -> tuple[str, str]:
    image = maker.image()
    document = maker.document(image)
    blob = document["config"] if member == "config" else document["layers"][-1]
    return maker.write(image, tag), blob["digest"]


def _missing_layer(maker: _Maker, tag: str) -> Planted:
    digest, blob = _blob_of(maker, tag, "layer")
    maker.tree.data(blob).unlink()
    return maker.planted("missing-blob", tag, digest, blob, subject=blob)


def _missing_config(maker: _Maker, tag: str) -> Planted:
    digest, blob = _blob_of(maker, tag, "config")
    maker.tree.data(blob).unlink()
    return maker.planted("missing-blob", tag, digest, blob, subject=blob)


def _unlinked_layer(maker: _Maker, tag: str) -> Planted:
    digest, blob = _blob_of(maker, tag, "layer")
    maker.tree.layer_link(maker.repository, blob).unlink()
    return maker.planted("unlinked-blob", tag, digest, blob, subject=blob, comes=True)


def _unlinked_config(maker: _Maker, tag: str) -> Planted:
    digest, blob = _blob_of(maker, tag, "config")
    maker.tree.layer_link(maker.repository, blob).unlink()
    return maker.planted("unlinked-blob", tag, digest, blob, subject=blob, comes=True)


def _emptied_layer_link(maker: _Maker, tag: str) -> Planted:
    """The registry serves no blob whose link is empty, though its bytes are there."""
    digest, blob = _blob_of(maker, tag, "layer")
    maker.tree.layer_link(maker.repository, blob).write_bytes(b"")
    return maker.planted("unlinked-blob", tag, digest, blob, subject=blob, comes=True)


def _turned_layer(maker: _Maker, tag: str) -> Planted:
    digest, blob = _blob_of(maker, tag, "layer")
    maker.tree.data(blob).write_bytes(turned(maker.builder.blobs[blob]))
    return maker.planted("damaged-blob", tag, digest, blob, subject=blob)


def _cut_layer(maker: _Maker, tag: str) -> Planted:
    digest, blob = _blob_of(maker, tag, "layer")
    maker.tree.data(blob).write_bytes(maker.builder.blobs[blob][:-100])
    return maker.planted("damaged-blob", tag, digest, blob, subject=blob)


def _emptied_layer(maker: _Maker, tag: str) -> Planted:
    digest, blob = _blob_of(maker, tag, "layer")
    maker.tree.data(blob).write_bytes(b"")
    return maker.planted("damaged-blob", tag, digest, blob, subject=blob)


def _turned_config(maker: _Maker, tag: str) -> Planted:
    digest, blob = _blob_of(maker, tag, "config")
    maker.tree.data(blob).write_bytes(turned(maker.builder.blobs[blob]))
    return maker.planted("damaged-blob", tag, digest, blob, subject=blob)


def _foreign_layer(maker: _Maker, tag: str) -> Planted:
    image, foreign = foreign_image(maker.builder, maker.layer())
    digest = maker.write(image, tag)
    return maker.planted("foreign-layer", tag, digest, foreign, subject=foreign, comes=True)


_OF_ONE_IMAGE: Final[dict[str, Callable[[_Maker, str], Planted]]] = {
    "bad-tag-name": _bad_tag_name,
    "empty-tag-link": _empty_tag_link,
    "empty-revision-link": _empty_revision_link,
    "bad-tag-link": _bad_tag_link,
    "cut-tag-link": _cut_tag_link,
    "wrong-revision-link": _wrong_revision_link,
    "missing-manifest": _missing_manifest,
    "unlinked-manifest": _unlinked_manifest,
    "turned-manifest": _turned_manifest,
    "cut-manifest": _cut_manifest,
    "emptied-manifest": _emptied_manifest,
    "invalid-manifest": _invalid_manifest,
    "both-kinds": _both_kinds,
    "schema-1": _schema_1,
    "empty-media-type": _empty_media_type,
    "unknown-media-type": _unknown_media_type,
    "deleted-child": _deleted_child,
    "lost-child": _lost_child,
    "missing-layer": _missing_layer,
    "missing-config": _missing_config,
    "unlinked-layer": _unlinked_layer,
    "unlinked-config": _unlinked_config,
    "emptied-layer-link": _emptied_layer_link,
    "turned-layer": _turned_layer,
    "cut-layer": _cut_layer,
    "emptied-layer": _emptied_layer,
    "turned-config": _turned_config,
    "foreign-layer": _foreign_layer,
}


# --- a repository -----------------------------------------------------------------------------


def _bad_repository_name(maker: _Maker, tag: str) -> Planted:
    maker.repository = "Planted/UPPER"
    digest = maker.write(maker.image(), tag)
    return Planted("bad-repository-name", maker.repository, maker.repository, frozenset(), tag, digest)


def _no_manifests_folder(maker: _Maker, tag: str) -> Planted:
    digest = maker.write(maker.image(), tag)
    folder = maker.tree.folder(maker.repository) / "_manifests"
    shutil.rmtree(folder)
    also = frozenset({"_manifests"})
    return Planted("no-manifests-folder", maker.repository, maker.repository, also, tag, digest)


def _file_for_folder(maker: _Maker, tag: str) -> Planted:
    """A file where the folder of the manifests should be: what some repair of a file system left."""
    digest = maker.write(maker.image(), tag)
    folder = maker.tree.folder(maker.repository) / "_manifests/revisions"
    shutil.rmtree(folder)
    folder.write_bytes(b"#12345678")
    also = frozenset({"revisions", "_manifests/revisions", digest})
    return Planted("unreadable", maker.repository, maker.repository, also, tag, digest)


_OF_A_REPOSITORY: Final[dict[str, Callable[[_Maker, str], Planted]]] = {
    "bad-repository-name": _bad_repository_name,
    "no-manifests-folder": _no_manifests_folder,
    "file-for-folder": _file_for_folder,
}
