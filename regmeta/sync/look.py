"""One image of an upstream: what is it there, is it here and whole, and if not, what is to be brought.

Of an image whose tag is known here only the digest is asked for (HEAD); of another the manifest at once. Rows
decide whether it is here: nothing is fetched for an image that is here and whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

from regmeta.db import Database
from regmeta.errors import Error, NothingWanted, NotSigned, without_frames
from regmeta.ingest.known import KnownTag, known_tags
from regmeta.ingest.known_referrers import KnownReferrers, known_referrers
from regmeta.ingest.local_registry import LocalRegistry
from regmeta.ingest.plan import ImageGroup, ImageRequest, PlannedImage
from regmeta.ingest.skip import skippable
from regmeta.oci import media_types
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import Manifest
from regmeta.oci.signatures import cosign_tags
from regmeta.sources import Source
from regmeta.sources.registry.image import RemoteImage
from regmeta.sources.registry.upstream import Upstream
from regmeta.sync import platforms
from regmeta.sync.companions import CompanionFinder, Companions
from regmeta.sync.converted import converted
from regmeta.sync.items import Item, Look, Verdict
from regmeta.sync.policy import Policy
from regmeta.sync.records import ItemKey, KnownItem
from regmeta.sync.unread import Unread
from regmeta.sync.watched import Stopped, WatchedSource


@dataclass(frozen=True, slots=True)
class Known:
    """What the rows said of many images at once, before they are looked at; *referrers* asks when called."""

    tags: Mapping[tuple[str, str], KnownTag] = field(default_factory=dict)  # by repository here and tag
    items: Mapping[ItemKey, KnownItem] = field(default_factory=dict)
    referrers: Callable[[], KnownReferrers] = dict


class Looker:
    """Looks at images of one upstream for one policy. Safe to use from several threads."""

    def __init__(
        self,
        policy: Policy,
        upstream: Upstream,
        registry: LocalRegistry,
        database: Database,
        stopped: Stopped,
        fetched: Callable[[], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._upstream = upstream
        self._registry = registry
        self._database = database
        self._stopped = stopped
        self._fetched = fetched
        self._clock_s = clock_s
        self._companions = CompanionFinder(policy, upstream, self._plan)

    def look(self, item: Item, known: Known) -> Look:
        """Find out what is to be done for *item*. Never raises an :class:`Error`: it is the answer then."""
        try:
            return self._look(item, known)
        except Error as error:
            return Look(item, "failed", error=without_frames(error))

    def _look(self, item: Item, known: Known) -> Look:
        here = self._here(item, known)
        before = known.items.get(item.key)
        there: Descriptor | None = None
        if here is not None or (before is not None and before.outcome == "left out"):
            there = self._upstream.resolve(item.source, item.reference)
            if here is not None and self._is_same(here, before, there.digest):
                return self._with_companions(item, there, here, known)
            if before is not None and self._is_left_out_again(item, before, there.digest):
                return self._left_out(item, there, NothingWanted(before.reason or "left out before"))
        image = self._upstream.image(item.source, item.reference if there is None else str(there.digest))
        try:
            return self._wanted(item, image, here, known)
        except (NothingWanted, NotSigned) as error:
            return self._left_out(item, image.descriptor, error)

    def _wanted(self, item: Item, image: RemoteImage, here: KnownTag | None, known: Known) -> Look:
        """Return what is to be brought of an image that is not here as it is there."""
        there = image.descriptor
        source, descriptor = self._as_wanted(image)
        if here is not None and here.digest == descriptor.digest and is_whole(self._policy, here):
            return self._with_companions(item, there, here, known)
        planned = self._planned(source, descriptor, item, item.tag)
        self._check_platform(item, planned)
        found = Companions()
        # Signatures and the like are of the digest that the upstream has.
        if descriptor.digest == there.digest:
            subjects = [descriptor.digest, *(m.document.digest for m in planned.manifests[:-1])]
            found = self._companions.find(item, subjects, known.tags, known.referrers)
        if self._policy.only_signed:
            if found.failures:
                raise found.failures[0]
            if not found.is_signed:
                raise NotSigned(f"{item}: {there.digest} has no signature, and only_signed is set")
        group = ImageGroup(planned, tuple(found.planned), all_or_nothing=self._policy.only_signed)
        return Look(
            item, "wanted", there.digest, descriptor.digest, group, error=next(iter(found.failures), None)
        )

    def _with_companions(self, item: Item, there: Descriptor, here: KnownTag, known: Known) -> Look:
        """The image is here: only what belongs to it may be new."""
        if there.digest != here.digest:
            return Look(item, "unchanged", there.digest, here.digest)
        subjects, known = self._looked_at_again(item, there, known)
        found = self._companions.find(item, subjects, known.tags, known.referrers)
        error = next(iter(found.failures), None)
        if not found.planned:
            verdict: Verdict = "unchanged" if error is None else "failed"
            return Look(item, verdict, there.digest, there.digest, error=error)
        group = ImageGroup(self._planned_here(item, there), tuple(found.planned))
        return Look(item, "wanted", there.digest, there.digest, group, error=error)

    def _looked_at_again(self, item: Item, there: Descriptor, known: Known) -> tuple[list[Digest], Known]:
        """Return which manifests of an image that is here may have something new, and what is known of it.

        That is the image itself; and those below it as well, unless all that belongs to them is known to have
        come before: it may be what failed the last time, or be wanted only now.
        """
        before = known.items.get(item.key)
        has_all = (
            before is not None
            and before.outcome in ("copied", "unchanged")
            and before.terms == self._policy.terms
        )
        looks_for_some = self._policy.referrers or self._policy.cosign_tags
        if has_all or not looks_for_some or there.media_type not in media_types.INDEXES:
            return [there.digest], known
        below = [m.document.digest for m in self._planned_here(item, there).manifests[:-1]]
        subjects = [there.digest, *below]
        tags = dict(known.tags)
        if self._policy.cosign_tags and item.listed is not None:
            pairs = {(item.repository, tag) for digest in below for tag in cosign_tags(digest)}
            tags.update(known_tags(self._database, {pair for pair in pairs if pair[1] in item.listed}))
        # The tag reaches them all, so what refers to them may be relied on.
        pairs_of_subjects = [(item.repository, subject) for subject in subjects]
        referrers = cache(lambda: known_referrers(self._database, pairs_of_subjects))
        return subjects, Known(tags, known.items, referrers)

    def _planned_here(self, item: Item, there: Descriptor) -> PlannedImage:
        """Plan an image that is here: nothing of it is asked for, unless it is found to be damaged."""
        unread = Unread(
            lambda: self._upstream.image(item.source, str(there.digest)), f"{self._upstream.name}/{item}"
        )
        return self._planned(self._watched(unread), there, item, item.tag)

    def _left_out(self, item: Item, there: Descriptor, error: Error) -> Look:
        return Look(item, "left out", there.digest, error=without_frames(error))

    def _here(self, item: Item, known: Known) -> KnownTag | None:
        """Return what is here under the tag, or of the digest, that was asked for."""
        if item.tag is not None:
            return known.tags.get((item.repository, item.tag))
        digest = Digest.parse(item.reference)
        if not skippable(self._database, item.repository, [(None, digest)]):
            return None
        return KnownTag(digest, is_safe=True)

    def _is_same(self, here: KnownTag, before: KnownItem | None, there: Digest) -> bool:
        """Tell whether what is here is what a copy would be now."""
        if not is_whole(self._policy, here):
            return False
        if self._policy.convert == "none":
            return here.digest == there
        return (
            before is not None
            and before.terms == self._policy.terms
            and before.upstream_digest == there
            and before.digest == here.digest
        )

    def _is_left_out_again(self, item: Item, before: KnownItem, there: Digest) -> bool:
        return (
            before.outcome == "left out"
            and before.terms == self._policy.terms
            and before.upstream_digest == there
            # A signature may come later: that is looked for each time.
            and not (self._policy.only_signed and self._companions.may_be_signed(item, there))
        )

    def _as_wanted(self, image: RemoteImage) -> tuple[Source, Descriptor]:
        """Return the image as it would be stored: converted, if that is asked for."""
        watched = self._watched(image)
        if self._policy.convert == "none":
            return watched, image.descriptor
        return converted(watched, image.descriptor, image.content)

    def _plan(self, image: RemoteImage, item: Item, tag: str | None) -> PlannedImage:
        return self._planned(self._watched(image), image.descriptor, item, tag)

    def _planned(self, source: Source, descriptor: Descriptor, item: Item, tag: str | None) -> PlannedImage:
        local_first = self._registry.local_first(source)
        request = ImageRequest(local_first, descriptor, item.repository, tag)
        return self._registry.copy_manifest(request, wants=platforms.wants_of(self._policy.platforms))

    def _check_platform(self, item: Item, planned: PlannedImage) -> None:
        root = planned.manifests[-1]
        config = root.config
        if not self._policy.platforms or not isinstance(root.document, Manifest) or config.os is None:
            return
        if not platforms.wants_image(self._policy.platforms, config.os, config.architecture, config.variant):
            raise NothingWanted(f"{item}: is for {config.os}/{config.architecture}, which is not wanted")

    def _watched(self, source: Source) -> Source:
        deadline_s = self._clock_s() + self._policy.image_timeout.total_seconds()
        return WatchedSource(source, deadline_s, self._stopped, self._fetched, self._clock_s)


def is_whole(policy: Policy, here: KnownTag) -> bool:
    """Tell whether all of a tag that the policy wants is here, and undamaged."""
    return here.is_safe and not any(
        platform is None
        or platforms.wants_image(policy.platforms, platform.os, platform.architecture, platform.variant)
        for platform in here.absent
    )
