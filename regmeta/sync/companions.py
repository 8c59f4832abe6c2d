"""What belongs to an image: its referrers, what refers to those, and the tags that cosign makes.

A signature tag is found by its name, a referrer by the referrers API or by the tag that stands in for it
(distribution-spec, "Listing Referrers" and "Referrers Tag Schema"). Referrers may refer to each other in a
circle as far as a hostile registry says so: each digest is looked at once.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from regmeta.errors import Error, InvalidManifest, NotFound, without_frames
from regmeta.ingest.known import KnownTag
from regmeta.ingest.known_referrers import KnownReferrers
from regmeta.ingest.plan import PlannedImage
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import Index, Manifest
from regmeta.oci.names import referrers_tag
from regmeta.oci.signatures import SIGNATURE_SUFFIX, cosign_tags, is_signature
from regmeta.sources.registry.image import RemoteImage
from regmeta.sources.registry.upstream import Upstream
from regmeta.sync.items import Item
from regmeta.sync.policy import Policy

_log = logging.getLogger(__name__)

MAX_COMPANIONS: Final = 1000  # of one image


@dataclass(slots=True)
class Companions:
    """What was found beside one image. *failures* are those that could not be read."""

    planned: list[PlannedImage] = field(default_factory=list)
    failures: list[Error] = field(default_factory=list)
    is_signed: bool = False  # a signature of the image is among what was planned, or is here


class CompanionFinder:
    """Looks for what belongs to images of one upstream. Safe to use from several threads.

    *plan* reads the tree of a remote image that is to go to a repository, under a tag or none.
    """

    def __init__(
        self,
        policy: Policy,
        upstream: Upstream,
        plan: Callable[[RemoteImage, Item, str | None], PlannedImage],
    ) -> None:
        self._policy = policy
        self._upstream = upstream
        self._plan = plan
        self._probing = threading.Lock()
        self._has_probed = False

    def find(
        self,
        item: Item,
        subjects: Iterable[Digest],
        tags: Mapping[tuple[str, str], KnownTag],
        referrers: Callable[[], KnownReferrers],
    ) -> Companions:
        """Look for all that belongs to *subjects*, the image's own digest first.

        What is here already, as *tags* and *referrers* say, is not read again, but what refers to it is
        looked for. What could not be found out is among the failures: it is never read as "none".
        """
        found = Companions()
        queue = deque(dict.fromkeys(subjects))
        root = queue[0]
        seen = set(queue)
        while queue:
            subject = queue.popleft()
            try:
                listed = self._referrers(item, subject, is_root=subject == root)
            except Error as error:
                found.failures.append(without_frames(error))
                listed = ()
            here = referrers().get((item.repository, subject), {}) if listed else {}
            for descriptor in listed:
                if descriptor.digest in seen:
                    continue
                seen.add(descriptor.digest)
                if len(seen) > MAX_COMPANIONS:
                    found.failures.append(
                        InvalidManifest(f"{item}: more than {MAX_COMPANIONS} manifests refer to it")
                    )
                    return found
                if descriptor.digest in here:
                    kind = here[descriptor.digest]
                else:
                    root_of = self._add_referrer(found, item, subject, descriptor)
                    if root_of is None:
                        continue
                    kind = root_of.effective_artifact_type
                if subject == root and is_signature(replace(descriptor, artifact_type=kind)):
                    found.is_signed = True
                queue.append(descriptor.digest)
            for tag in self._cosign_tags(item, subject, is_root=subject == root):
                if self._add_tag(found, item, tag, tags) and subject == root:
                    found.is_signed |= tag.endswith(SIGNATURE_SUFFIX)
        return found

    def may_be_signed(self, item: Item, subject: Digest) -> bool:
        """Tell whether the registry lists a signature of a manifest; none of them is read.

        Raises:
            RemoteUnavailable, RemoteRefused: it could not be found out.
        """
        if any(map(is_signature, self._referrers(item, subject, is_root=True))):
            return True
        for tag in self._cosign_tags(item, subject, is_root=True):
            if tag.endswith(SIGNATURE_SUFFIX):
                try:
                    self._upstream.resolve(item.source, tag)
                except NotFound:
                    continue
                return True
        return False

    def _referrers(self, item: Item, subject: Digest, *, is_root: bool) -> Iterable[Descriptor]:
        if not self._policy.referrers:
            return ()
        if self._upstream.has_referrers_api is None and not self._has_probed:
            with self._probing:  # one finds out for all whether there is an API
                if not self._has_probed:
                    try:
                        return self._upstream.referrers(item.source, subject)
                    finally:
                        self._has_probed = True
        if (
            self._upstream.has_referrers_api is False
            and item.listed is not None
            and referrers_tag(subject) not in item.listed
        ):
            return ()  # the tag that stands in for the API would be in the list
        if self._upstream.has_referrers_api is False and item.listed is None and not is_root:
            return ()  # a request for each manifest of a tree, nearly always in vain
        return self._upstream.referrers(item.source, subject)

    def _add_referrer(
        self, found: Companions, item: Item, subject: Digest, descriptor: Descriptor
    ) -> Manifest | Index | None:
        """Plan a referrer and return it; None if it is none, or could not be read."""
        try:
            image = self._upstream.image(item.source, str(descriptor.digest))
            planned = self._plan(image, item, None)
        except Error as error:
            found.failures.append(without_frames(error))
            return None
        root = planned.manifests[-1].document
        if root.subject is None or root.subject.digest != subject:
            _log.warning("%s: %s is listed as a referrer of %s, and is none", item, root.digest, subject)
            return None
        found.planned.append(planned)
        return root

    def _cosign_tags(self, item: Item, subject: Digest, *, is_root: bool) -> Iterable[str]:
        if not self._policy.cosign_tags or (item.listed is None and not is_root):
            return ()
        return [tag for tag in cosign_tags(subject) if item.listed is None or tag in item.listed]

    def _add_tag(
        self, found: Companions, item: Item, tag: str, known: Mapping[tuple[str, str], KnownTag]
    ) -> bool:
        """Plan the image of a tag unless it is here; tell whether there is such a tag."""
        here = known.get((item.repository, tag))
        try:
            if here is not None or item.listed is None:
                upstream = self._upstream.resolve(item.source, tag)
                if here is not None and here.is_safe and not here.absent and here.digest == upstream.digest:
                    return True
            found.planned.append(self._plan(self._upstream.image(item.source, tag), item, tag))
        except NotFound:
            return False  # it was listed and has gone since, or was never there
        except Error as error:
            found.failures.append(without_frames(error))
            return False
        return True
