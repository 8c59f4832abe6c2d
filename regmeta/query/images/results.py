"""What the views of images answer: frozen values. Sizes are in bytes, times are in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from regmeta.oci.annotations import Described
from regmeta.oci.digest import Digest

UNKNOWN_PLATFORM = "unknown/unknown"
"""What builders write for what is no image at all: attestations."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of an index, or an image itself. One that is not here is listed too.

    ``kind`` is *image*, *blob* for content that is no manifest, or *absent*; then ``absence`` says why:
    *sparse*, *policy*, or *damaged* if its row cannot be read. ``size_bytes`` counts each of its blobs once,
    its manifest included; None of what is absent. ``pulls`` and ``signatures`` are its own, not its index's.
    """

    kind: Literal["image", "blob", "absent"]
    digest: Digest | None
    platform: str | None
    os_version: str | None = None
    size_bytes: int | None = None
    layers: int | None = None
    created_at: datetime | None = None
    pulls: int = 0
    signatures: int = 0
    referrers: int = 0
    absence: str | None = None


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """What there is to say of one image, index or artifact.

    ``size_bytes`` counts each blob of the whole tree once, manifests included, without layers that are not
    kept here; ``manifest_bytes`` are those of its own manifest. ``tags`` are those that point at it now, and
    ``tagged_at`` is when the last of them began to. ``signatures`` counts by kind (see
    ``query.graph.signatures``), ``referrers`` by artifact type, the empty text for none. ``pulls`` counts
    each once, by whatever tag or digest it came; of an index only those of itself. ``annotations`` and
    ``labels`` are its own; an index has no labels. Long values are cut, as rows hold them.
    """

    id: int
    repository: str
    digest: Digest
    kind: str
    media_type: str
    artifact_type: str | None
    config_media_type: str | None
    subject: Digest | None
    tags: tuple[str, ...]
    images: tuple[Entry, ...]
    size_bytes: int
    manifest_bytes: int
    created_at: datetime | None
    pushed_at: datetime
    pushed_by: str
    tagged_at: datetime | None
    last_pulled_at: datetime | None
    pulls: int
    signatures: Mapping[str, int]
    referrers: Mapping[str, int]
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    described: Described

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms of its images that are here, each once, in its order."""
        return tuple(
            dict.fromkeys(
                entry.platform
                for entry in self.images
                if entry.kind == "image" and entry.platform not in (None, UNKNOWN_PLATFORM)
            )
        )

    @property
    def is_signed(self) -> bool:
        """Whether something signs it; who signed is not verified."""
        return bool(self.signatures)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands in a page in place of an image that is not there, or whose rows are damaged."""

    reference: str
    why: str


@dataclass(frozen=True, slots=True)
class RepositorySummary:
    """A repository at a glance.

    ``newest`` is its newest image (``query.images.newest`` has the rule). ``size_bytes`` counts each blob of
    the repository once. ``platforms`` and ``vendors`` are those of all its images. ``updated_at`` is when
    anything in it changed last, a removal too; ``pushed_at`` and ``tagged_at`` are when an image came last
    and when a tag was set last. ``pulls`` counts each once.
    """

    name: str
    newest_tag: str | None
    newest: ImageSummary | Unreadable | None
    tags: int
    manifests: int
    size_bytes: int
    platforms: tuple[str, ...]
    vendors: tuple[str, ...]
    pulls: int
    last_pulled_at: datetime | None
    stars: int
    is_starred: bool
    is_bookmarked: bool
    created_at: datetime
    updated_at: datetime
    pushed_at: datetime | None
    tagged_at: datetime | None


@dataclass(frozen=True, slots=True)
class LayerDetails:
    """One layer, 1 is the lowest. ``state`` is *live*, *damaged*, or *absent* for one not kept here."""

    position: int
    media_type: str
    digest: Digest
    size_bytes: int
    chain_digest: Digest | None
    state: str


@dataclass(frozen=True, slots=True)
class ImageLayers:
    """The layers of one image. ``total_bytes`` counts one as often as it is listed, ``size_bytes`` once."""

    repository: str
    digest: Digest
    platform: str | None
    config: Digest | None
    layers: tuple[LayerDetails, ...]
    total_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs: what the first image says, and the second; None where it says nothing."""

    name: str
    first: str | None
    second: str | None


@dataclass(frozen=True, slots=True)
class Side:
    """One of two images that are compared. ``size_bytes`` counts each blob once."""

    reference: str
    digest: Digest
    kind: str
    media_type: str
    size_bytes: int
    created_at: datetime | None
    pushed_at: datetime
    platforms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PairDiff:
    """Two images of one platform, layer by layer.

    ``common`` are the layers that both list, by digest; ``removed`` are only in the first, ``added`` only in
    the second. ``common_base`` is how many layers from the lowest up have the same content in both, also
    where they are compressed differently: the base that they share.
    """

    platform: str | None
    first: Digest
    second: Digest
    common_base: int
    common: tuple[LayerDetails, ...]
    removed: tuple[LayerDetails, ...]
    added: tuple[LayerDetails, ...]
    labels: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class ImageDiff:
    """What two images or indexes have in common, and what not.

    ``shared_bytes`` are those of blobs that both are made of, manifests included; the others are only in one.
    ``pairs`` has one for each platform that both have an image of, or the one of the two images.
    """

    first: Side
    second: Side
    shared_bytes: int
    only_first_bytes: int
    only_second_bytes: int
    platforms_common: tuple[str, ...]
    platforms_removed: tuple[str, ...]
    platforms_added: tuple[str, ...]
    annotations: tuple[Change, ...]
    pairs: tuple[PairDiff, ...]

    @property
    def is_same(self) -> bool:
        """Whether both are the same bytes."""
        return self.first.digest == self.second.digest
