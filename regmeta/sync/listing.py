"""Which images of an upstream a policy wants: repositories, their tags, and what the rows know of them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from regmeta.db import Database
from regmeta.errors import Error, InvalidName, without_frames
from regmeta.ingest.known import known_tags
from regmeta.ingest.known_referrers import KnownReferrers, known_referrers
from regmeta.oci.digest import Digest
from regmeta.oci.signatures import cosign_tags
from regmeta.sources.registry.upstream import Upstream
from regmeta.sync.items import ALL_TAGS, Item
from regmeta.sync.look import Known
from regmeta.sync.mapping import destination_of
from regmeta.sync.policy import ContentRule, Policy
from regmeta.sync.records import KEYS_AT_ONCE, known_items
from regmeta.sync.selection import exact_repositories, select_repositories, select_tags
from regmeta.sync.watched import Halt
from regmeta.threads import Threads


@dataclass(slots=True)
class Repository:
    """One repository of the upstream, its wanted tags, or why they could not be listed."""

    source: str
    rule: ContentRule
    repository: str
    listed: frozenset[str] = frozenset()
    wanted: list[str] = field(default_factory=list)
    error: Error | None = None

    def items(self) -> Iterator[Item]:
        """Return its images."""
        for tag in self.wanted:
            yield Item(self.source, tag, self.repository, tag, self.listed)


def repositories(policy: Policy, upstream: Upstream) -> list[tuple[str, ContentRule]]:
    """Return the upstream's repositories that the policy wants. Only patterns need its catalog.

    Raises:
        RemoteUnavailable, RemoteRefused: the catalog could not be read.
    """
    exact = exact_repositories(policy)
    if exact is not None:
        return list(exact)
    return list(select_repositories(policy, upstream.catalog()))


def list_tags(
    policy: Policy, upstream: Upstream, wanted: list[tuple[str, ContentRule]], stopped: Halt
) -> Iterator[Repository]:
    """List the tags of repositories, several at a time; what cannot be listed says so itself.

    An interrupt sets *stopped*: else it would have to wait for an upstream that says nothing.
    """

    def of(each: tuple[str, ContentRule]) -> Repository:
        source, rule = each
        found = Repository(source, rule, "")
        try:
            found.repository = destination_of(rule, source)
            tags = upstream.tags(source)
            found.listed = frozenset(tags)
            found.wanted = list(select_tags(rule, tags))
        except Error as error:
            found.error = without_frames(error)
        return found

    with Threads(policy.images_at_once, thread_name_prefix="list") as pool:
        try:
            yield from pool.map(of, wanted)
        except GeneratorExit:
            raise
        except BaseException as error:
            stopped.set_for(error)
            raise


class _Once:
    """Asks when the answer is wanted first, for all threads once: most images have no referrers."""

    def __init__(self, ask: Callable[[], KnownReferrers]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._answer: KnownReferrers | None = None

    def __call__(self) -> KnownReferrers:
        with self._lock:
            if self._answer is None:
                self._answer = self._ask()
            return self._answer


def is_wanted(rule: ContentRule, item: Item) -> bool:
    """Tell whether *rule*, its repository's, wants an image, or all tags, where it goes."""
    try:
        if destination_of(rule, item.source) != item.repository:
            return False
    except InvalidName:
        return False
    is_digest = ":" in item.reference
    return item.reference == ALL_TAGS or is_digest or bool(select_tags(rule, [item.reference]))


def shared_destinations(wanted: Iterable[tuple[str, ContentRule]]) -> frozenset[str]:
    """Return the repositories here to which more than one of the upstream's goes."""
    counts: Counter[str] = Counter()
    for source, rule in wanted:
        with suppress(InvalidName):  # that is said where it is listed
            counts[destination_of(rule, source)] += 1
    return frozenset(name for name, count in counts.items() if count > 1)


def with_known(
    database: Database, policy: Policy, found: Iterator[Repository]
) -> Iterator[tuple[list[Item], Known]]:
    """Give the images in portions, each with what the rows know of them: a few statements a portion."""
    items = (item for repository in found for item in repository.items())
    while portion := list(islice(items, KEYS_AT_ONCE)):
        yield portion, look_up(database, policy, portion)


def look_up(database: Database, policy: Policy, items: Sequence[Item]) -> Known:
    """Return what the rows know of some images, and of what belongs to those that are here."""
    tags = dict(known_tags(database, {(i.repository, i.tag) for i in items if i.tag is not None}))
    here = [
        (item, tags[item.repository, item.tag].digest)
        for item in items
        if item.tag is not None and (item.repository, item.tag) in tags
    ]
    if policy.cosign_tags:
        companions = {
            (item.repository, tag)
            for item, digest in here
            for tag in cosign_tags(digest)
            if item.listed is None or tag in item.listed
        }
        tags.update(known_tags(database, companions))
    subjects = {(item.repository, digest) for item, digest in here}
    subjects |= {(i.repository, Digest.parse(i.reference)) for i in items if i.tag is None}
    return Known(
        tags,
        known_items(database, policy.name, [item.key for item in items]),
        _Once(lambda: known_referrers(database, subjects)),
    )
