"""The storage of other registries, read where it lies: the contract, and the kinds there are.

``docker``   docker's registry (distribution): blobs, links and tags below ``docker/registry/v2``
``layouts``  a tree of OCI layouts, one a repository: zot's storage, or any that other tools wrote
``trees``    what both read: a folder, or the objects below a prefix of a bucket

What is read is hostile, as any source is (:mod:`regmeta.sources`), and is never written: no file of it is
changed, moved, or opened for writing. A registry may be at work on it meanwhile. What has gone between a
listing and a look is as if it had gone before; the :meth:`RegistryStorage.fingerprint`, taken first, tells
the next run that there is something to look at again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.sources import Source

Kind = Literal["docker", "layouts"]
DefectKind = Literal[
    "bad-repository-name",
    "bad-tag-name",
    "empty-link",
    "bad-link",
    "no-manifests-folder",
    "missing-manifest",
    "unlinked-manifest",
    "damaged-manifest",
    "invalid-manifest",
    "schema-1",
    "empty-media-type",
    "unknown-media-type",
    "broken-index-child",
    "missing-blob",
    "unlinked-blob",
    "unfilled-placeholder",
    "damaged-blob",
    "foreign-layer",
    "bad-index-file",
    "bad-entry",
    "tag-listed-twice",
    "unreadable",
    "moved-here",
    "refused-here",
    "tags-gone",
]
"""What can be wrong with something that a registry kept; ``regmeta.adopt.defects`` says what each means."""


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing that is wrong: *subject* is the tag, digest or path, *detail* says it in words."""

    kind: DefectKind
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class StoredTag:
    """A tag, and when its file says that it was last set; None where no file says it."""

    name: str
    digest: Digest
    tagged_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredRepository:
    """What a repository of an old registry would serve.

    *tags* are in the order of their names; *manifests* are all that it has, tagged or not, with the time of
    the file that says so. What cannot be served stands in *defects* and in neither of the others. Whether
    the manifests and what they name are whole is not known yet.
    """

    name: str
    tags: tuple[StoredTag, ...]
    manifests: Mapping[Digest, datetime | None]
    defects: tuple[Defect, ...] = ()


class RegistryStorage(Protocol):
    """The storage of a registry. Safe to use from several threads, until :meth:`close`."""

    @property
    def kind(self) -> Kind:
        """What wrote it."""

    @property
    def location(self) -> str:
        """Where it is: an absolute path, or the URL of a bucket's prefix."""

    def repositories(self) -> Iterator[str]:
        """Name all repositories, in the order of their names; also those whose name is none of the grammar.

        Raises:
            InvalidSource: they cannot be listed.
            RemoteUnavailable: the bucket did not answer.
        """

    def fingerprint(self, name: str) -> str:
        """Return a text that is another one whenever the tags or manifests of a repository are others.

        It is made from what the files say, not from their times alone.

        Raises:
            InvalidSource, RemoteUnavailable: it cannot be read.
        """

    def repository(self, name: str) -> StoredRepository:
        """Return what a repository has. What is wrong with it is a defect, and no error.

        Raises:
            RemoteUnavailable: the bucket did not answer.
        """

    def descriptor(self, name: str, digest: Digest) -> Descriptor:
        """Return the descriptor of a manifest of a repository: its size, and the media type that it has.

        Where neither it nor the listing says a type, the type is that of an OCI manifest or index, by its
        members.

        Raises:
            MissingContent: there are no bytes of it.
            InvalidManifest: it is larger than a manifest may be, no JSON object, schema 1, or of no kind.
            DigestMismatch: its bytes have another digest.
            InvalidSource, RemoteUnavailable: it cannot be read.
        """

    def says_type(self, name: str, digest: Digest) -> bool:
        """Tell whether a manifest, or what lists it, says its media type, or need not: not where it is empty.

        Raises:
            Error: what :meth:`descriptor` raises.
        """

    def blob_size(self, name: str, digest: Digest) -> int | None:
        """Return how many bytes there are of a blob that a repository may use; None if there are none.

        Raises:
            InvalidSource, RemoteUnavailable: it could not be found out.
        """

    def is_placeholder(self, name: str, digest: Digest) -> bool:
        """Tell whether of a blob there is a placeholder only, whose bytes are nowhere (zot's, of 0 bytes).

        Raises:
            InvalidSource, RemoteUnavailable: it could not be found out.
        """

    def is_linked(self, name: str, digest: Digest) -> bool:
        """Tell whether the old registry itself would serve this blob in this repository."""

    def source(self, name: str) -> Source:
        """Return the content of a repository as a source of images: ``read`` and ``open`` are for use.

        What it opens of a folder is a :class:`~regmeta.oci.streams.LinkableStream` where links were asked
        for. It is open for as long as the storage is.
        """

    def close(self) -> None:
        """Let go of what is held open."""
