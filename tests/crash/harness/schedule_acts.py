"""What writers of the schedules do besides moving tags: they delete and undo, lock, and apply retention.

Each writer has a repository in which nobody else sets or ends a tag, so what is acknowledged there is known
exactly; only what the collector has taken meanwhile is not, and then the answer may be "not found". In one
more repository all do all of it, and only whole images and the invariants are asked for.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

from regmeta import errors
from regmeta.app import Writing
from regmeta.db import Database
from regmeta.errors import Error, ImmutableTag, NotFound, RepositoryNotActive
from regmeta.ingest.plan import ImageRequest
from regmeta.ingest.tag_locks import lock_tags, unlock_tags
from regmeta.ingest.tag_restore import Wanted, restore_tag
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.delete import manifest as deleting
from regmeta.maintain.delete.manifest import StillListed
from regmeta.maintain.delete.repository import delete_repository
from regmeta.maintain.delete.undelete import undelete_manifest, undelete_repository
from regmeta.maintain.retention.apply import apply_plan
from regmeta.maintain.retention.plan import make_plan
from regmeta.maintain.retention.policy import Policy, Rule
from regmeta.oci.digest import Digest
from regmeta.sources import Source
from tests.builders import Json, digest_of, parsed
from tests.crash.harness.schedule_images import BUILDER, IMAGES
from tests.support import registry

COMMON: Final = "common"
_HALF_DELETED: Final = (
    "SELECT r.name, 'an index lists a manifest that was deleted' FROM index_manifests i"
    " JOIN manifests p ON p.id = i.index_id JOIN manifests c ON c.id = i.child_id"
    " JOIN repositories r ON r.id = p.repository_id"
    " WHERE p.deleted_at IS NULL AND c.deleted_at IS NOT NULL",
    "SELECT r.name, 'a tag names a manifest that was deleted' FROM tags t"
    " JOIN manifests m ON m.id = t.manifest_id JOIN repositories r ON r.id = t.repository_id"
    " WHERE t.ended_at IS NULL AND (m.deleted_at IS NOT NULL OR r.state <> 'active')",
)
TAGS: Final = ("one", "two", "kept")
INDEX: Final = IMAGES[3]
GONE: Final = (NotFound, RepositoryNotActive)  # of a repository that was deleted, and may be being purged
NOTHING_HAPPENED: Final = (errors.StoreUnavailable, errors.MissingContent, errors.Contention)

Told = Callable[[str, str], None]
Kinds = tuple[type[Error], ...]


class Own:
    """The repository of one writer, beside a model of it."""

    def __init__(self, repository: str, told: Told, count: Callable[[str], None]) -> None:
        self.repository = repository
        self.tags: dict[str, Digest] = {}
        self._is_active = False
        self._ended: dict[str, Digest] = {}  # by the last deletion
        self._values: dict[str, list[Digest]] = {}
        self._locks: set[str] = set()
        self._deleted: Digest | None = None
        self._told = told
        self._count = count

    def act(self, writing: Writing, source: Source, drawn: random.Random) -> None:
        """Do one thing, and hold what is answered against the model.

        Raises:
            StoreUnavailable, MissingContent, Contention: it was given up; nothing has happened.
        """
        # What there is something to do about, as a rule; else nearly all would be refused.
        sure = drawn.random() < 0.8
        tag = drawn.choice(sorted(self.tags) if sure and self.tags else TAGS)
        image = drawn.choice(IMAGES)
        named = drawn.choice(sorted(self.tags.values())) if sure and self.tags else digest_of(image)
        gone = self._deleted if sure and self._deleted else digest_of(image)
        anew, lost = drawn.choice((*TAGS, None)), next(iter(sorted(self._values.keys() - self.tags)), tag)
        some, none = (1, 0) if self._is_active or not sure else (0, 1)
        acts: tuple[tuple[int, Callable[[], None]], ...] = (
            (6, lambda: self._import(writing, source, image, anew)),
            (2 * some, lambda: self._set(writing, anew or tag, named)),
            (2 * some, lambda: self._remove(writing, tag)),
            (4 * some, lambda: self._delete(writing, named, cascade=drawn.random() < 0.5)),
            (3 * some, lambda: self._undelete_digest(writing, gone)),
            (2 * some, lambda: self._delete_repository(writing)),
            (8 * none + some, lambda: self._undelete_repository(writing)),
            (3 * some, lambda: self._restore(writing, lost)),
            (2 * some, lambda: self._lock(writing, tag)),
            (1 * some, lambda: self._unlock(writing, next(iter(sorted(self._locks)), tag))),
            (2 * some, lambda: self._apply_retention(writing)),
        )
        [act] = drawn.choices([act for _, act in acts], [weight for weight, _ in acts])
        act()

    def findings(self, database: Database) -> Iterator[tuple[str, str]]:
        """Give what is not as it was acknowledged last."""
        now = registry.tags(database, self.repository)
        if now != self.tags:
            yield "lost", f"{self.repository} has {now}, {self.tags} was acknowledged"

    # --- one thing each -----------------------------------------------------------------------

    def _import(self, writing: Writing, source: Source, image: Json, tag: str | None) -> None:
        def push() -> None:
            for outcome in writing.registry.import_images(
                [ImageRequest(source, parsed(image), self.repository, tag)]
            ):
                if outcome.error is not None:
                    raise outcome.error

        must: Kinds = (ImmutableTag,) if tag and self._may_not_become(tag, digest_of(image)) else ()
        if self._tried(f"import {tag}", push, () if self._is_active else (RepositoryNotActive,), must):
            self._is_active = True
            if tag is not None:
                self._now(tag, digest_of(image))

    def _set(self, writing: Writing, tag: str, digest: Digest) -> None:
        must: Kinds = () if self._is_active else GONE
        if self._may_not_become(tag, digest):
            must = (ImmutableTag, NotFound)
        may = () if digest in self._reached() else (NotFound,)
        if self._tried(
            f"set {tag}", lambda: set_tag(writing.writer, self.repository, tag, digest), may, must
        ):
            self._now(tag, digest)

    def _remove(self, writing: Writing, tag: str) -> None:
        must: Kinds = () if tag in self.tags else GONE
        if tag in self.tags and tag in self._locks:
            must = (ImmutableTag,)
        if self._tried(f"remove {tag}", lambda: remove_tag(writing.writer, self.repository, tag), (), must):
            del self.tags[tag]

    def _delete(self, writing: Writing, digest: Digest, *, cascade: bool) -> None:
        named = sorted(tag for tag, of in self.tags.items() if of == digest)
        is_listed = any(digest in _listed_by(of) for of in self._reached())
        must: Kinds = () if self._is_active else GONE
        if is_listed:
            must = (StillListed,)
        elif self._locks.intersection(named):
            must = (ImmutableTag, StillListed)  # an index without a tag may be here still
        may = (StillListed,) if named else (StillListed, NotFound)
        report = self._tried(
            f"delete {digest}",
            lambda: deleting.delete_manifest(writing.writer, self.repository, digest, cascade=cascade),
            may,
            must,
        )
        if report:
            if sorted(report.tags_ended) != named:
                self._told("wrong", f"delete {digest}: ended {report.tags_ended}, not {named}")
            self.tags = {tag: of for tag, of in self.tags.items() if of != digest}
            self._deleted = digest

    def _undelete_digest(self, writing: Writing, digest: Digest) -> None:
        must: Kinds = (NotFound,) if digest in self._reached() else () if self._is_active else GONE
        self._tried(
            f"undelete {digest}",
            lambda: undelete_manifest(writing.writer, self.repository, digest),
            (NotFound,),
            must,
        )

    def _delete_repository(self, writing: Writing) -> None:
        for tag in sorted(self._locks):
            self._unlock(writing, tag)
        report = self._tried(
            "delete it",
            lambda: delete_repository(writing.writer, self.repository),
            (),
            () if self._is_active else GONE,
        )
        if report:
            if report.tags != len(self.tags):
                self._told("wrong", f"delete it: {report.tags} tags ended, there were {self.tags}")
            self._ended, self.tags, self._is_active = self.tags, {}, False

    def _undelete_repository(self, writing: Writing) -> None:
        report = self._tried(
            "undelete it",
            lambda: undelete_repository(writing.writer, self.repository),
            GONE,
            (NotFound,) if self._is_active else (),
        )
        if report:
            self._is_active = True
            self.tags = registry.tags(writing.database, self.repository)
            if (
                report.tags + report.tags_lost != len(self._ended)
                or not self.tags.items() <= self._ended.items()
            ):
                self._told("wrong", f"undelete it: {report} and {self.tags} of {self._ended}")

    def _restore(self, writing: Writing, tag: str) -> None:
        current = self.tags.get(tag)
        wanted = next((of for of in reversed(self._values.get(tag, ())) if of != current), None)
        must: Kinds = () if self._is_active and wanted is not None else GONE
        if self._is_active and current is not None and tag in self._locks:
            must = (ImmutableTag, NotFound)
        result = self._tried(
            f"restore {tag}",
            lambda: restore_tag(writing.writer, self.repository, tag, Wanted()),
            (NotFound,),
            must,
        )
        if result and wanted is not None:
            [change] = result.tags_changed
            if change.digest != wanted:
                self._told("wrong", f"restore {tag}: became {change.digest}, was {wanted}")
            self._now(tag, wanted)

    def _lock(self, writing: Writing, tag: str) -> None:
        must: Kinds = () if self._is_active else GONE
        if self._tried(f"lock {tag}", lambda: lock_tags(writing.writer, self.repository, tag), (), must):
            self._locks.add(tag)

    def _unlock(self, writing: Writing, tag: str) -> None:
        must: Kinds = () if tag in self._locks else GONE
        if self._tried(f"unlock {tag}", lambda: unlock_tags(writing.writer, self.repository, tag), (), must):
            self._locks.discard(tag)

    def _apply_retention(self, writing: Writing) -> None:
        policies = (Policy("own", (self.repository,), (Rule("kept", tags=("kept",)),)),)
        drops = {tag for tag in self.tags if tag != "kept" and tag not in self._locks}
        plan = make_plan(writing.database, policies, ()).drop_plan
        outcomes = apply_plan(writing.writer, plan, policies)
        applied = {tag for outcome in outcomes if outcome.status == "applied" for tag in outcome.tags}
        if applied != drops or len(outcomes) != bool(drops):
            self._told("wrong", f"{self.repository}: retention ended {outcomes}, not {drops}")
        self._count("retention applied")
        self.tags = {tag: of for tag, of in self.tags.items() if tag not in drops}

    # --- the model ----------------------------------------------------------------------------

    def _tried(self, what: str, run: Callable[[], Any], may: Kinds, must: Kinds) -> Any:
        """Run something that *may* be refused, or *must*; returns what it returned, something true."""
        try:
            result = run()
        except NOTHING_HAPPENED:
            raise
        except Error as error:
            if not isinstance(error, must or may):
                self._told("wrong", f"{self.repository}: {what}: {type(error).__name__}: {error}")
            self._count("refused")
            return None
        if must:
            self._told("wrong", f"{self.repository}: {what}: was done with {self.tags}, {self._locks}")
        self._count(f"did {what.split(maxsplit=1)[0]}")
        return True if result is None else result

    def _now(self, tag: str, digest: Digest) -> None:
        if self.tags.get(tag) != digest:
            self._values.setdefault(tag, []).append(digest)
        self.tags[tag] = digest

    def _may_not_become(self, tag: str, digest: Digest) -> bool:
        return tag in self._locks and self.tags.get(tag, digest) != digest

    def _reached(self) -> set[Digest]:
        """Return the manifests that live tags reach, which are here whatever a collector does."""
        return set(self.tags.values()).union(*map(_listed_by, self.tags.values()))


def _listed_by(root: Digest) -> set[Digest]:
    return {digest_of(child) for child in json.loads(BUILDER.blobs[str(root)]).get("manifests", ())}


def act_in_common(writing: Writing, source: Source, drawn: random.Random) -> None:
    """Do one thing in the repository where others do all of it as well.

    Raises:
        StoreUnavailable, MissingContent, Contention: it was given up; nothing has happened.
    """
    tag, image, writer = drawn.choice(TAGS), drawn.choice((*IMAGES, INDEX, INDEX)), writing.writer
    digest = digest_of(drawn.choice(IMAGES[:2]))  # which an index lists

    def push() -> None:
        for outcome in writing.registry.import_images([ImageRequest(source, parsed(image), COMMON, tag)]):
            if outcome.error is not None:
                raise outcome.error

    acts: tuple[tuple[int, Callable[[], object]], ...] = (
        (8, push),
        (2, lambda: set_tag(writer, COMMON, tag, digest)),
        (6, lambda: deleting.delete_manifest(writer, COMMON, digest, cascade=drawn.random() < 0.3)),
        (1, lambda: undelete_manifest(writer, COMMON, digest, tags=True)),
        (1, lambda: delete_repository(writer, COMMON)),
        (1, lambda: undelete_repository(writer, COMMON)),
        (1, lambda: restore_tag(writer, COMMON, tag, Wanted())),
    )
    [act] = drawn.choices([act for _, act in acts], [weight for weight, _ in acts])
    act()


def half_deleted(database: Database) -> list[tuple[str, str]]:
    """Return where something that can be read relies on what was deleted, at one moment."""
    found = [row for statement in _HALF_DELETED for row in registry.rows(database, statement)]
    return [("partial", f"{name}: {what}") for name, what in found]
