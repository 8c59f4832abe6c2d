"""The rows of a synthetic registry, in the order in which pushes would have made them.

Pushes of all repositories take turns, so what belongs together does not lie together, as in a real registry.
Kept in memory: what the next image of each repository is built on, and the words. No row is kept.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from uuid import UUID

from benchmarks.synthetic import documents
from benchmarks.synthetic.documents import Content, Document, Platform
from benchmarks.synthetic.shape import DAY_US, TAGS_OF_A_BUSY_IMAGE, Shape
from benchmarks.synthetic.vocabulary import KNOWN, Skewed, Vocabulary
from regmeta.ingest.searchable import NOT_TEXT
from regmeta.oci.folding import folded, text_key, text_of

Row = tuple[Any, ...]
Batch = dict[str, list[Row]]

COLUMNS: Final[dict[str, str]] = {
    "store_identity": "id store_id database_id epoch created_at",
    "repositories": "id name leaf state revision created_at updated_at",
    "blobs": "id digest size_bytes key lease_until created_at",
    "repository_blobs": "repository_id blob_id linked_at",
    "manifests": "id repository_id digest kind media_type size_bytes content blob_id artifact_type"
    " config_media_type subject_digest os architecture variant image_created_at layer_count"
    " total_size_bytes chain_digest pushed_at pushed_by lease_until",
    "manifest_blobs": "manifest_id position role blob_id chain_digest",
    "index_manifests": "index_id position child_digest child_id media_type size_bytes os architecture"
    " variant",
    "tags": "id repository_id name manifest_digest manifest_id started_at started_by ended_at ended_by",
    "tag_names": "id name folded",
    "labels": "manifest_id origin name value text_key",
    "label_texts": "id folded",
    "events": "id transaction_id occurred_at kind repository_id tag digest previous_digest actor",
    "pull_stats": "repository_id digest tag day pulls last_pulled_at",
    "favorites": "user_name kind repository_id created_at",
    "usage_samples": "day repository_id sampled_at tags manifests blobs logical_bytes unique_bytes"
    " exclusive_bytes",
}
"""The tables that are filled, so that a row comes after those that it refers to, and their columns."""

BATCH_IMAGES: Final = 1000
DAYS: Final = 1000  # that the pushes are spread over
LATEST: Final = "latest"
_TITLE: Final = "org.opencontainers.image.title"
_VENDOR: Final = "org.opencontainers.image.vendor"
_VERSION: Final = "org.opencontainers.image.version"
_REVISION: Final = "org.opencontainers.image.revision"
_DESCRIPTION: Final = "org.opencontainers.image.description"
_COSIGN: Final = "application/vnd.dev.cosign.artifact.sig.v1+json"
_REFERRER_TYPES: Final = (
    _COSIGN,
    "application/vnd.cncf.notary.signature",
    "application/spdx+json",
    "application/vnd.cyclonedx+json",
)
_COSIGN_LAYER: Final = "application/vnd.dev.cosign.simplesigning.v1+json"


@dataclass(slots=True)
class _Repository:
    """One repository, and what its next image is built on."""

    id: int
    name: str
    platforms: int
    stacks: list[list[Content]] = field(default_factory=list)  # for each platform
    pushes: int = 0
    latest: tuple[Any, ...] | None = None  # the interval of the tag "latest" that is live
    tags: int = 0
    manifests: int = 0
    blobs: int = 0
    logical_bytes: int = 0
    unique_bytes: int = 0
    exclusive_bytes: int = 0
    description: str = ""


class Registry:
    """Makes the rows."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self._rng = rng = random.Random(f"registry/{shape.seed}")
        self._words = Vocabulary(rng, shape.repositories)
        self._batch: Batch = {name: [] for name in COLUMNS}
        self._ids = dict.fromkeys(("blobs", "manifests", "tags", "tag_names", "events"), 0)
        self._tag_names: set[str] = set()
        self._texts: set[int] = set()
        self._repositories: list[_Repository] = []
        self._bases: list[list[list[Content]]] = []  # stacks, for each platform
        self._runtimes: list[list[list[Content]]] = []
        self._end_us = (shape.today + 1) * DAY_US - DAY_US // 2
        self._now_us = self._end_us - DAYS * DAY_US
        self._users = [self._words.word(rng) for _ in range(300)]
        self._user = Skewed(len(self._users))
        self._skews: dict[int, Skewed] = {}

    def batches(self) -> Iterator[Batch]:
        """Make all rows, a batch at a time."""
        self._identify()
        schedule = self._schedule()
        step_us = DAYS * DAY_US // (len(schedule) + 1)
        yield self._take()
        for number, pushed in enumerate(schedule):
            self._now_us += step_us
            pushed()
            if number % BATCH_IMAGES == BATCH_IMAGES - 1:
                yield self._take()
        del schedule
        for repository in self._repositories:
            self._finish(repository)
            if repository.id % (10 * BATCH_IMAGES) == 0:
                yield self._take()
        yield self._take()

    # -- what is pushed when -----------------------------------------------------------------

    def _schedule(self) -> list[partial[None]]:
        shape, rng, taken = self.shape, self._rng, set[str]()
        bases = [self._add(self._base_name(number, taken), 4) for number in range(shape.bases)]
        runtimes = [
            self._add(self._words.repository(rng, number, taken), 4) for number in range(shape.runtimes)
        ]
        busy = [
            self._add(self._words.repository(rng, number, taken) + "-nightly", 1)
            for number in range(shape.busy)
        ]
        rest = shape.repositories - len(self._repositories)
        # 40 % have images of several platforms: so a fifth of all manifests are indexes.
        others = [
            self._add(
                self._words.repository(rng, number, taken),
                rng.choice((2, 2, 3, 4)) if rng.random() < 0.4 else 1,
            )
            for number in range(max(1, rest))
        ]
        first = [partial(self._push_base, repository) for repository in bases]
        second = [partial(self._push_runtime, repository) for repository in runtimes]
        each: list[partial[None]] = [partial(self._push, repository) for repository in others]
        popular = Skewed(len(others), 0.8)
        order = list(range(len(others)))
        rng.shuffle(order)
        for _ in range(shape.images - len(first) - len(second) - len(others)):
            each.append(each[order[popular.draw(rng)]])
        for repository in busy:
            pushed = partial(self._push_busy, repository)
            each.extend([pushed] * (shape.busy_tags // TAGS_OF_A_BUSY_IMAGE))
        rng.shuffle(each)
        return [*first, *second, *each]

    def _base_name(self, number: int, taken: set[str]) -> str:
        leaf = KNOWN[number] if number < len(KNOWN) else f"{self._words.words[number + 50]}-base"
        taken.add(f"library/{leaf}")
        return f"library/{leaf}"

    def _add(self, name: str, platforms: int) -> _Repository:
        repository = _Repository(len(self._repositories) + 1, name, platforms)
        self._repositories.append(repository)
        # The row is written now, since others refer to it, with the times that it will have at the end.
        self._batch["repositories"].append(
            (
                repository.id,
                name,
                name.rpartition("/")[2],
                "active",
                1,
                self._now_us,
                self._spread(repository.id),
            )
        )
        return repository

    def _spread(self, number: int) -> int:
        return self._end_us - (number * 7919 % 9973) * DAY_US // 20

    # -- pushes ------------------------------------------------------------------------------

    def _push_base(self, repository: _Repository) -> None:
        count = self._rng.randint(2, 6)
        repository.stacks = [self._grown(repository, [], count) for _ in range(repository.platforms)]
        self._bases.append(repository.stacks)
        self._push_image(repository)

    def _push_runtime(self, repository: _Repository) -> None:
        base = self._bases[self._popular(len(self._bases))]
        repository.stacks = [self._grown(repository, stack, 2) for stack in base]
        self._runtimes.append(repository.stacks)
        self._push_image(repository)

    def _push(self, repository: _Repository) -> None:
        self._build(repository)
        self._push_image(repository)

    def _push_busy(self, repository: _Repository) -> None:
        self._build(repository)
        document, manifest_id = self._push_image(repository)
        for number in range(TAGS_OF_A_BUSY_IMAGE - 1):
            self._tag(repository, f"nightly-{repository.pushes:05d}.{number}", document, manifest_id)

    def _build(self, repository: _Repository) -> None:
        """Let the next image have some layers of the one before, and new ones on top."""
        rng = self._rng
        if not repository.stacks:
            under = self._runtimes if rng.random() < 0.5 else self._bases
            chosen = under[self._popular(len(under))]
            for stack in chosen[: repository.platforms]:
                for layer in stack:
                    self._link(repository, layer)
            own = rng.randint(4, 10)
            repository.stacks = [
                self._grown(repository, stack, own) for stack in chosen[: repository.platforms]
            ]
            return
        changed = rng.randint(1, 2)
        repository.stacks = [
            self._grown(repository, stack[:-changed], changed) for stack in repository.stacks
        ]

    def _popular(self, count: int) -> int:
        if count not in self._skews:
            self._skews[count] = Skewed(count)
        return self._skews[count].draw(self._rng)

    def _grown(self, repository: _Repository, stack: list[Content], count: int) -> list[Content]:
        grown = list(stack)
        for _ in range(count):
            digest = documents.SHA256 + self._rng.randbytes(32)
            size_bytes = int(self._rng.lognormvariate(13, 2.2)) + 200
            chain = documents.chain_of(grown[-1].chain if grown else None, digest)
            grown.append(self._blob(repository, digest, size_bytes, chain))
        return grown

    def _push_image(self, repository: _Repository) -> tuple[Document, int]:
        """Push what is built, and tag it."""
        rng, words = self._rng, self._words
        repository.pushes += 1
        version = self._version(repository.pushes)
        revision = rng.randbytes(20).hex()
        if not repository.description:
            repository.description = words.sentence(rng)
        title = {_TITLE: repository.name.rpartition("/")[2]}
        children: list[tuple[Document, Platform]] = []
        ids = []
        for stack, platform in zip(repository.stacks, documents.PLATFORMS, strict=False):
            annotations = {**title, _VENDOR: words.vendor(rng)}
            said = {
                _VERSION: version,
                _REVISION: revision,
                "maintainer": words.maintainer(rng),
                _DESCRIPTION: repository.description,
            }
            config = self._random_blob(repository, rng.randint(1000, 9000))
            document = documents.image(config, stack, annotations)
            ids.append(self._image(repository, document, config, stack, platform, annotations, said))
            children.append((document, platform))
        if len(children) == 1:
            document, manifest_id = children[0][0], ids[0]
        else:
            annotations = {**title, _REVISION: revision, _DESCRIPTION: repository.description}
            document = documents.index(children, annotations)
            manifest_id = self._index(repository, document, children, ids, annotations)
        self._tag(repository, version, document, manifest_id)
        if rng.random() < 0.2:
            self._tag(repository, f"sha-{revision[:7]}", document, manifest_id)
        if repository.latest is None or rng.random() < 0.5:
            self._tag(repository, LATEST, document, manifest_id)
        if rng.random() < 0.1:
            self._refer(repository, document)
        if rng.random() < 0.3:
            self._pull(repository, document, version)
        return document, manifest_id

    @staticmethod
    def _version(pushes: int) -> str:
        return f"v{pushes // 100 + 1}.{pushes // 10 % 10}.{pushes % 10}"

    def _refer(self, repository: _Repository, subject: Document) -> None:
        """Push a signature or the like of an image: as cosign first did, or with a subject."""
        rng = self._rng
        layer = self._random_blob(repository, rng.randint(200, 90_000))
        config = self._random_blob(repository, 2)
        if rng.random() < 0.4:
            document = documents.image(config, [layer], {}, layer_type=_COSIGN_LAYER)
            manifest_id = self._artifact(
                repository, document, config, layer, documents.MEDIA_CONFIG, None, {}
            )
            self._tag(repository, f"sha256-{subject.digest[1:].hex()}.sig", document, manifest_id)
            return
        kind = rng.choice(_REFERRER_TYPES)
        annotations = {"org.opencontainers.image.created": "2025-01-01T00:00:00Z", "issuer": "ci"}
        document = documents.image(
            config,
            [layer],
            annotations,
            config_type=documents.MEDIA_EMPTY,
            layer_type=kind,
            artifact_type=kind,
            subject=(subject.digest, len(subject.content)),
        )
        self._artifact(repository, document, config, layer, kind, subject.digest, annotations)

    # -- rows --------------------------------------------------------------------------------

    def _id(self, table: str) -> int:
        self._ids[table] += 1
        return self._ids[table]

    def _blob(
        self, repository: _Repository, digest: bytes, size_bytes: int, chain: bytes | None = None
    ) -> Content:
        blob_id, text = self._id("blobs"), digest[1:].hex()
        key = f"sha256/{text[:2]}/{text}.{self._rng.randbytes(16).hex()}"
        self._batch["blobs"].append((blob_id, digest, size_bytes, key, self._now_us, self._now_us))
        content = Content(blob_id, digest, size_bytes, chain)
        self._batch["repository_blobs"].append((repository.id, blob_id, self._now_us))
        repository.blobs += 1
        repository.unique_bytes += size_bytes
        repository.exclusive_bytes += size_bytes
        return content

    def _random_blob(self, repository: _Repository, size_bytes: int) -> Content:
        return self._blob(repository, documents.SHA256 + self._rng.randbytes(32), size_bytes)

    def _link(self, repository: _Repository, layer: Content) -> None:
        self._batch["repository_blobs"].append((repository.id, layer.blob_id, self._now_us))
        repository.blobs += 1
        repository.unique_bytes += layer.size_bytes

    def _manifest(self, repository: _Repository, document: Document, row: tuple[Any, ...], total: int) -> int:
        """Write the row; *row* is what stands between ``kind``, ``media_type`` and the times."""
        manifest_id = self._id("manifests")
        blob = self._blob(repository, document.digest, len(document.content))
        kind, media_type, *rest = row
        self._batch["manifests"].append(
            (
                manifest_id,
                repository.id,
                document.digest,
                kind,
                media_type,
                len(document.content),
                document.content,
                blob.blob_id,
                *rest,
                self._now_us + manifest_id % 1000,
                self._users[self._user.draw(self._rng)],
                self._now_us,
            )
        )
        repository.manifests += 1
        repository.logical_bytes += len(document.content) + total
        return manifest_id

    def _image(
        self,
        repository: _Repository,
        document: Document,
        config: Content,
        layers: list[Content],
        platform: Platform,
        annotations: dict[str, str],
        said: dict[str, str],
    ) -> int:
        total = config.size_bytes + sum(layer.size_bytes for layer in layers)
        created = self._now_us - self._rng.randrange(DAY_US)
        row = (
            "image",
            documents.MEDIA_MANIFEST,
            documents.MEDIA_CONFIG,
            documents.MEDIA_CONFIG,
            None,
            *platform,
            created,
            len(layers),
            total,
            layers[-1].chain,
        )
        manifest_id = self._manifest(repository, document, row, total)
        edges = self._batch["manifest_blobs"]
        edges.append((manifest_id, 0, "config", config.blob_id, None))
        edges.extend(
            (manifest_id, position, "layer", layer.blob_id, layer.chain)
            for position, layer in enumerate(layers, 1)
        )
        self._label(manifest_id, "annotation", annotations)
        self._label(manifest_id, "config", said)
        return manifest_id

    def _artifact(
        self,
        repository: _Repository,
        document: Document,
        config: Content,
        layer: Content,
        artifact_type: str,
        subject: bytes | None,
        annotations: dict[str, str],
    ) -> int:
        total = config.size_bytes + layer.size_bytes
        config_type = documents.MEDIA_EMPTY if subject else documents.MEDIA_CONFIG
        row = (
            "image",
            documents.MEDIA_MANIFEST,
            artifact_type,
            config_type,
            subject,
            None,
            None,
            None,
            None,
            1,
            total,
            layer.digest,
        )
        manifest_id = self._manifest(repository, document, row, total)
        self._batch["manifest_blobs"].append((manifest_id, 0, "config", config.blob_id, None))
        self._batch["manifest_blobs"].append((manifest_id, 1, "layer", layer.blob_id, layer.digest))
        self._label(manifest_id, "annotation", annotations)
        return manifest_id

    def _index(
        self,
        repository: _Repository,
        document: Document,
        children: list[tuple[Document, Platform]],
        ids: list[int],
        annotations: dict[str, str],
    ) -> int:
        row = ("index", documents.MEDIA_INDEX, *(None,) * 10)
        manifest_id = self._manifest(repository, document, row, 0)
        self._batch["index_manifests"].extend(
            (
                manifest_id,
                position,
                child.digest,
                child_id,
                documents.MEDIA_MANIFEST,
                len(child.content),
                *platform,
            )
            for position, ((child, platform), child_id) in enumerate(zip(children, ids, strict=True))
        )
        self._label(manifest_id, "annotation", annotations)
        return manifest_id

    def _label(self, manifest_id: int, origin: str, pairs: dict[str, str]) -> None:
        for name, value in pairs.items():
            text = text_of(value)
            key = text_key(text)
            if key not in self._texts and name not in NOT_TEXT:
                self._texts.add(key)
                self._batch["label_texts"].append((key, text))
            self._batch["labels"].append((manifest_id, origin, name, value, key))

    def _tag(self, repository: _Repository, name: str, document: Document, manifest_id: int) -> None:
        if name not in self._tag_names:
            self._tag_names.add(name)
            self._batch["tag_names"].append((self._id("tag_names"), name, folded(name)))
        by, at = self._users[self._user.draw(self._rng)], self._now_us
        row = (self._id("tags"), repository.id, name, document.digest, manifest_id, at, by)
        previous = None
        if name == LATEST:
            if repository.latest is not None:
                previous = repository.latest[3]
                self._batch["tags"].append((*repository.latest, at, by))
            repository.latest = row
        else:
            self._batch["tags"].append((*row, None, None))
        if repository.latest is not row or previous is None:
            repository.tags += 1
        if at > self._end_us - 100 * DAY_US:  # older events were pruned
            kind = "tag.moved" if previous else "tag.created"
            event = self._id("events")
            transaction = 3 + event // 50  # lower than that of any transaction to come
            self._batch["events"].append(
                (event, transaction, at, kind, repository.id, name, document.digest, previous, by)
            )

    def _pull(self, repository: _Repository, document: Document, tag: str) -> None:
        rng = self._rng
        for day in {self.shape.today - int(rng.expovariate(1 / 40)) for _ in range(rng.randint(1, 4))}:
            at = day * DAY_US + rng.randrange(DAY_US // 2)
            name = tag if rng.random() < 0.8 else ""
            pulls = int(rng.paretovariate(1.2))
            self._batch["pull_stats"].append((repository.id, document.digest, name, day, pulls, at))

    # -- the rest ----------------------------------------------------------------------------

    def _identify(self) -> None:
        store, database = (UUID(int=self._rng.getrandbits(128), version=4) for _ in range(2))
        self._batch["store_identity"].append((1, store, database, 1, self._now_us))

    def _finish(self, repository: _Repository) -> None:
        """Write what is known of a repository at the end only."""
        rng = self._rng
        if repository.latest is not None:
            self._batch["tags"].append((*repository.latest, None, None))
        if rng.random() < 0.1:
            stars = min(200, int(rng.paretovariate(0.9)))
            for number in rng.sample(range(1000), stars):
                kind = "star" if rng.random() < 0.8 else "bookmark"
                self._batch["favorites"].append(
                    (f"user-{number:03d}", kind, repository.id, self._now_us - number * DAY_US)
                )
        for age, share in ((30, 9), (0, 10)):
            day = self.shape.today - age
            counts = (repository.tags, repository.manifests, repository.blobs)
            sizes = (repository.logical_bytes, repository.unique_bytes, repository.exclusive_bytes)
            values = (value * share // 10 for value in (*counts, *sizes))
            self._batch["usage_samples"].append((day, repository.id, day * DAY_US, *values))

    def _take(self) -> Batch:
        taken, self._batch = self._batch, {name: [] for name in COLUMNS}
        return taken
