"""Wiring of ``regmeta sync watch``: policies that are run when they are due, until somebody stops it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from regmeta import db
from regmeta.app import Writing, open_for_writing
from regmeta.app.collecting import Stop
from regmeta.app.syncing import chosen_policies, mirror_of, opened
from regmeta.app.writers import may_live
from regmeta.errors import Error, Locked, RemoteUnavailable, Unavailable, UsageError
from regmeta.ingest.plan import Lifetimes
from regmeta.maintain.recover import recover
from regmeta.settings import Settings
from regmeta.sources.registry.stopping import Stopping
from regmeta.sync.pipeline import is_ours
from regmeta.sync.policy import Policy
from regmeta.sync.records import Cause, LastRun, RunState, last_run, next_retry_at, run_state
from regmeta.sync.run import SyncReport, run_policy
from regmeta.threads import Threads

HERE: Final = "the registry here"  # what messages call it
LONGEST_WAIT_S: Final = 30.0  # what others note as due is seen after that
SHORTEST_WAIT_S: Final = 1.0
STALLED_S: Final = 300.0  # [s] a run of a host that cannot be asked is not waited for if it does not get on


def watched_policies(settings: Settings, names: Sequence[str] = ()) -> list[Policy]:
    """Return those of the policies that a watch has something to do for.

    Raises:
        UsageError: there is none, no such policy, or nothing to do for one that was named.
    """
    policies = chosen_policies(settings, names)
    watched = [policy for policy in policies if policy.poll is not None or policy.on_demand]
    idle = [policy.name for policy in policies if policy not in watched]
    if not watched or (names and idle):
        which = f"registry {idle[0]!r} has no" if len(policies) == 1 or names else "no registry has a"
        raise UsageError(f'settings: {which} poll interval: add poll = "1h"')
    return watched


def watch(
    settings: Settings,
    stop: Stop,
    *,
    synced: Callable[[SyncReport], None],
    changed: Callable[[str], None],
    lifetimes: Lifetimes | None = None,
    names: Sequence[str] = (),
) -> None:
    """Run each policy when it is due, and what failed when it is due again, until *stop*.

    Policies run beside each other, so that a slow upstream keeps no other waiting; *synced* and *changed* are
    called one at a time. *changed* is told when something does not work, why, and when it works again.

    Raises:
        UsageError: no policy has a poll interval.
        SchemaMismatch, IdentityMismatch: this is not the registry any more.
    """
    policies = watched_policies(settings, names)
    watching = _Watch(settings, policies, synced, changed)
    while not stop.is_set():
        try:
            with open_for_writing(settings, lifetimes=lifetimes) as registry:
                watching.go_on(registry, stop)
        except (Unavailable, Locked) as error:
            watching.fails(HERE, error)
            stop.wait(SHORTEST_WAIT_S * 5)


class _Watch:
    """Policies that are run beside each other, each in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        policies: Sequence[Policy],
        synced: Callable[[SyncReport], None],
        changed: Callable[[str], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._policies = policies
        self._clock_s = clock_s
        self._elsewhere: dict[str, _Seen] = {}  # by policy; each has a thread of its own
        self._synced = synced
        self._changed = changed
        self._lock = threading.Lock()
        self._said: dict[str, str] = {}
        self._in_vain: dict[str, int] = {}

    def go_on(self, registry: Writing, stop: Stop) -> None:
        """Run the policies until *stop*, or until nothing can be written any more."""
        self.works(HERE)
        stopped = Stopping()
        recovered_s = time.monotonic()
        with Threads(len(self._policies), thread_name_prefix="policy") as pool:
            futures = [pool.submit(self._follow, policy, registry, stopped) for policy in self._policies]
            try:
                while not stop.is_set() and not any(future.done() for future in futures):
                    stop.wait(SHORTEST_WAIT_S)
                    if time.monotonic() - recovered_s > LONGEST_WAIT_S:
                        recover(registry.writer, registry.store)
                        recovered_s = time.monotonic()
            finally:
                stopped.set()
        for future in futures:
            future.result()

    def fails(self, about: str, error: Error) -> None:
        """Tell that something does not work, unless that was told."""
        with self._lock:
            kind = type(error).__name__
            if self._said.get(about) != kind:
                self._said[about] = kind
                self._changed(f"{about}: {error}")

    def works(self, about: str) -> None:
        """Tell that something works again, if it did not."""
        with self._lock:
            if self._said.pop(about, None) is not None:
                self._changed(f"{about}: works again")

    def _follow(self, policy: Policy, registry: Writing, stopped: threading.Event) -> None:
        while not stopped.is_set():
            cause, wait_s = self._due(policy, registry)
            if wait_s > 0:
                stopped.wait(min(wait_s, LONGEST_WAIT_S))
                continue
            try:
                # A new one each time: what an upstream could not do may have changed since.
                with opened(self._settings, policy, stopped) as upstream:
                    mirror = mirror_of(policy, upstream, registry, stopped, None)
                    report = run_policy(mirror, cause, only_due=cause == "retry")
            except Error as error:
                if is_ours(error):
                    raise
                self._in_vain[policy.name] = self._in_vain.get(policy.name, 0) + 1
                self.fails(policy.name, error)
                stopped.wait(SHORTEST_WAIT_S)
                continue
            if report.outcome == "done":
                self._in_vain[policy.name] = 0
                # What is tried again failed before: that it does once more tells nothing of the rest.
                away = _away(report) if cause == "schedule" else None
                if away is not None:
                    self.fails(policy.name, away)
                elif cause == "schedule" or report.counts.copied:
                    self.works(policy.name)
            with self._lock:
                self._synced(report)

    def _due(self, policy: Policy, registry: Writing) -> tuple[Cause, float]:
        """Return what is next for a policy, and in how many seconds [s]."""
        database = registry.database
        with database.read() as connection:
            now = db.clock(connection)
        last = last_run(database, policy.name)
        if last is not None and self._is_going_on(policy, last, registry):
            return "schedule", SHORTEST_WAIT_S * 5  # another process is at it
        wait = LONGEST_WAIT_S
        if policy.poll is not None:
            polled = last_run(database, policy.name, causes=("schedule", "command"))
            wait = 0.0
            if polled is not None:
                pause = self._pause(policy, policy.poll, polled)
                wait = (polled.started_at + pause - now).total_seconds()
            if wait <= 0:
                return "schedule", 0.0
        retry_at = next_retry_at(database, policy.name)
        if retry_at is not None:
            return "retry", min(wait, (retry_at - now).total_seconds())
        return "schedule", wait

    def _pause(self, policy: Policy, poll: timedelta, polled: LastRun) -> timedelta:
        """Return how long after the beginning of its last run a policy runs again."""
        if polled.outcome == "done":
            return poll
        if polled.outcome == "failed":
            return min(policy.backoff.after(max(1, self._in_vain.get(policy.name, 0))), poll)
        return timedelta(0)  # stopped or killed before its end: the rest is due

    def _is_going_on(self, policy: Policy, last: LastRun, registry: Writing) -> bool:
        """Tell whether another process is at it. Two at once do no harm, they only ask twice.

        Of one on another host only rows tell, and its sign in the bucket. A machine may go without a word,
        and a process may stand still: so it is waited for as long as its rows change, by our own clock.
        """
        if last.ended_at is not None or last.owner == registry.writer.staging.owner:
            return False
        if not may_live(registry.store, last.host, last.owner):
            return False
        if last.host == registry.store.host:
            return True
        now_s = self._clock_s()
        state = run_state(registry.database, last.id, last.owner)
        seen = self._elsewhere.get(policy.name)
        if seen is None or (seen.run_id, seen.state) != (last.id, state):
            seen = self._elsewhere[policy.name] = _Seen(last.id, state, now_s)
        return now_s - seen.since_s < STALLED_S


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the run of another host had come to, and since when."""

    run_id: int
    state: RunState
    since_s: float


def _away(report: SyncReport) -> Error | None:
    """Return why an upstream is away: nothing of it could be reached."""
    counts = report.counts
    if not counts.failed or counts.copied or counts.unchanged or counts.left_out:
        return None
    errors = [item.error for item in report.items if item.error is not None]
    return errors[0] if errors and all(isinstance(e, RemoteUnavailable) for e in errors) else None
