"""One run of a policy, or of one image that was asked for: from the list of what is wanted to noted outcomes.

========  =======================================  ===================================  =====================
step      durable effect                           a crash right after leaves           repaired by
========  =======================================  ===================================  =====================
begin     a row of ``sync_runs`` without an end    the same                             the policy's next run
bring     images, each whole, in batches           images that are here, and the rest   the next run fetches
                                                   not; staged bytes                    the rest; ``recover``
note      rows of ``sync_items``                   outcomes that are not noted          the next run, which
                                                                                        finds the images here
remove    tags that the upstream has no more       the same                             --
finish    the run's end and its counts             --                                   --
========  =======================================  ===================================  =====================
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from regmeta.errors import Error, InvalidSource
from regmeta.ingest.local_registry import LocalRegistry
from regmeta.ingest.reserve import chunks
from regmeta.ingest.unit_of_work import Writer
from regmeta.sources.registry.upstream import Upstream
from regmeta.sync.items import ALL_TAGS, Item
from regmeta.sync.listing import (
    Repository,
    is_wanted,
    list_tags,
    look_up,
    repositories,
    shared_destinations,
    with_known,
)
from regmeta.sync.look import Known, Looker
from regmeta.sync.outcomes import Outcomes
from regmeta.sync.pipeline import NoProgress, Pipeline, Progress, is_ours
from regmeta.sync.policy import ContentRule, Policy
from regmeta.sync.records import (
    KEYS_AT_ONCE,
    Cause,
    ItemKey,
    ItemOutcome,
    RunCounts,
    RunOutcome,
    begin_run,
    due_retries,
    failing_items,
    finish_run,
    prune_runs,
)
from regmeta.sync.removals import removals
from regmeta.sync.selection import rule_of
from regmeta.sync.watched import Halt


@dataclass(frozen=True, slots=True)
class SyncReport:
    """How a run ended."""

    policy: str
    run_id: int
    outcome: RunOutcome
    counts: RunCounts
    items: Sequence[ItemOutcome]  # without those that were unchanged, unless they were asked for


@dataclass(frozen=True, slots=True)
class Mirror:
    """One upstream, what is wanted of it, and the registry here that it is brought to.

    *stopped* ends what goes on; *has_ended* tells of a process whether it has certainly gone.
    """

    policy: Policy
    upstream: Upstream
    registry: LocalRegistry
    writer: Writer
    stopped: threading.Event = field(default_factory=threading.Event)
    has_ended: Callable[[str, UUID], bool] | None = None
    progress: Progress = field(default_factory=NoProgress)


def run_policy(
    mirror: Mirror, cause: Cause = "command", *, only_due: bool = False, believe_deletes: bool = False
) -> SyncReport:
    """Bring all that the policy wants of its upstream; with *only_due* what failed before and is due again.

    What fails, fails for itself: an image, or a repository whose tags cannot be listed. With
    *believe_deletes* an implausible share of tags may go that the upstream has no more.

    Others may sync the same images meanwhile: one copy is made, or two of the same.

    Raises:
        RemoteUnavailable, RemoteRefused: the upstream's catalog could not be read.
        StoreUnavailable, DatabaseUnavailable, Locked: nothing can be written here. What was done is done.
    """
    return _Run(mirror, cause, believe_deletes=believe_deletes).policy(only_due)


def sync_image(mirror: Mirror, item: Item, cause: Cause = "command") -> SyncReport:
    """Bring one image, whatever the policy's rules say of its name.

    Raises:
        StoreUnavailable, DatabaseUnavailable, Locked: nothing can be written here.
    """
    return _Run(mirror, cause, keeps_all=True).image(item)


class _Run:
    def __init__(
        self, mirror: Mirror, cause: Cause, *, believe_deletes: bool = False, keeps_all: bool = False
    ) -> None:
        self._mirror = mirror
        self._policy = mirror.policy
        self._database = mirror.writer.database
        self._cause: Cause = cause
        self._believe_deletes = believe_deletes
        self._halt = Halt(mirror.stopped)
        self._looker = Looker(
            mirror.policy,
            mirror.upstream,
            mirror.registry,
            self._database,
            self._halt,
            mirror.progress.fetched,
        )
        self._outcomes = Outcomes(self._database, mirror.policy, keeps_all=keeps_all)
        self._named: dict[tuple[str, str | None], ItemKey] = {}
        self._shared: frozenset[str] | None = None  # repositories here that several there go to, if known
        self._requests_before = mirror.upstream.requests

    def policy(self, only_due: bool) -> SyncReport:
        def work() -> None:
            if only_due:
                self._retry()
            else:
                self._all()

        return self._recorded(work)

    def image(self, item: Item) -> SyncReport:
        self._mirror.progress.found(1)
        return self._recorded(lambda: self._bring([item], look_up(self._database, self._policy, [item])))

    def _recorded(self, work: Callable[[], None]) -> SyncReport:
        """Run *work* between a beginning and an end that the rows know."""
        writer, policy = self._mirror.writer, self._policy
        self._outcomes.run_id = begin_run(
            self._database,
            policy.name,
            self._cause,
            actor=writer.actor,
            host=writer.host,
            owner=writer.staging.owner,
            has_ended=self._mirror.has_ended,
        )
        try:
            work()
        except BaseException as error:
            is_of_stop = isinstance(error, Error) and not is_ours(error) and self._mirror.stopped.is_set()
            if not is_of_stop:
                self._halt.set_for(error)
                self._finish("failed" if isinstance(error, Error) else "stopped", error)
                raise
        report = self._finish("stopped" if self._halt.is_set() else "done")
        prune_runs(self._database)
        return report

    def _finish(self, outcome: RunOutcome, error: BaseException | None = None) -> SyncReport:
        counts = self._outcomes.counts(self._mirror.upstream.requests - self._requests_before)
        said = str(error) if isinstance(error, Error) else None
        try:
            self._outcomes.note()
            finish_run(self._database, self._outcomes.run_id, outcome, counts, error=said)
        except Error:
            if error is None:
                raise  # else the first error is the one to be told of
        return SyncReport(self._policy.name, self._outcomes.run_id, outcome, counts, self._outcomes.kept)

    def _all(self) -> None:
        wanted = repositories(self._policy, self._mirror.upstream)
        self._repositories(wanted, is_all=bool(wanted))

    def _repositories(self, wanted: list[tuple[str, ContentRule]], *, is_all: bool) -> None:
        """Bring all that is wanted of some repositories. *is_all*: there are no others that are wanted."""
        whole: list[Repository] = []
        self._shared = shared_destinations(wanted)

        def listed() -> Iterator[Repository]:
            for found in list_tags(self._policy, self._mirror.upstream, wanted, self._halt):
                if self._halt.is_set():
                    return
                if found.error is not None:
                    key = ItemKey(found.source, ALL_TAGS, found.repository)
                    self._outcomes.fail(key, found.error)
                    continue
                whole.append(found)
                self._mirror.progress.found(len(found.wanted))
                yield found

        for items, known in with_known(self._database, self._policy, listed()):
            self._bring(items, known)
            if self._halt.is_set():
                return
        done: set[ItemKey] = set()
        if self._policy.upstream_deletes == "delete":
            self._outcomes.note()  # what another repository has brought is read there
            for found in whole:
                if self._halt.is_set():
                    return
                some = removals(self._mirror.writer, self._policy, found, believe=self._believe_deletes)
                done |= {ItemKey(each.source, each.reference, each.destination) for each in some}
                self._outcomes.add(some)
        if not self._halt.is_set():
            self._settle(whole, done, {source for source, _ in wanted} if is_all else None)

    def _settle(
        self, whole: Sequence[Repository], done: Container[ItemKey], sources: Container[str] | None
    ) -> None:
        """Forget failures of what is not wanted any more, and of lists that could be read now.

        *whole* are the repositories that were listed, *sources* all that are wanted, if that is known.
        """
        by_source = {found.source: found for found in whole}
        for key in failing_items(self._database, self._policy.name):
            found = by_source.get(key.source)
            if key in done:
                continue
            if found is None:
                if sources is not None and key.source not in sources:
                    self._outcomes.forget(key, "is not wanted any more")
            elif key.reference == ALL_TAGS:
                self._outcomes.forget(key, "its tags can be listed again")
            elif key.reference not in found.wanted:
                self._outcomes.forget(key, "is not wanted any more")

    def _retry(self) -> None:
        """Try again what failed and is due. A repository that could not be listed is listed again."""
        items: list[Item] = []
        repositories: list[tuple[str, ContentRule]] = []
        for key in due_retries(self._database, self._policy.name):
            item = Item(key.source, key.reference, *_here(key))
            rule = rule_of(self._policy, key.source)
            if rule is None or not is_wanted(rule, item):
                self._outcomes.forget(key, "is not wanted any more")
            elif key.reference == ALL_TAGS:
                repositories.append((key.source, rule))
            else:
                items.append(item)
        self._mirror.progress.found(len(items))
        for some in chunks(items, KEYS_AT_ONCE):
            if self._halt.is_set():
                return
            self._bring(some, look_up(self._database, self._policy, some))
        if repositories and not self._halt.is_set():
            self._repositories(repositories, is_all=False)

    def _bring(self, items: Sequence[Item], known: Known) -> None:
        pipeline = Pipeline(
            lambda item: self._looker.look(item, known),
            self._mirror.registry,
            terms=self._policy.terms,
            images_at_once=self._policy.images_at_once,
            progress=self._mirror.progress,
            stopped=self._halt,
        )
        for outcomes in pipeline.run(self._once_each(items)):
            self._outcomes.add(outcomes)

    def _once_each(self, items: Iterable[Item]) -> Iterator[Item]:
        """Leave out images that would go where another goes already."""
        for item in items:
            if self._shared is not None and item.repository not in self._shared:
                yield item
                continue
            first = self._named.setdefault((item.repository, item.tag), item.key)
            if item.tag is None or first == item.key:
                yield item
                continue
            error = InvalidSource(f"{item}: goes to {item.repository}:{item.tag}, and so does {first.source}")
            self._outcomes.fail(item.key, error)


def _here(key: ItemKey) -> tuple[str, str | None]:
    """Return the repository and the tag that a destination says."""
    repository, colon, tag = key.destination.partition(":")
    if colon:
        return repository, tag
    return repository, None if ":" in key.reference else key.reference
