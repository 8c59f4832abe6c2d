"""Wiring of ``regmeta sync``: policies and upstreams from the settings, and single runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from regmeta.app import Writing, mirroring, open_for_writing
from regmeta.app.writers import may_live
from regmeta.errors import Error, StoreUnavailable, UsageError, without_frames
from regmeta.oci.names import Reference
from regmeta.oci.remote_names import RemoteReference
from regmeta.settings import Settings
from regmeta.settings.sync import wrong_with_platform
from regmeta.sources.registry.stopping import Stopping
from regmeta.sources.registry.upstream import Upstream
from regmeta.store import BlobStore
from regmeta.sync.items import Item
from regmeta.sync.on_demand import OnDemand
from regmeta.sync.pipeline import NoProgress, Progress, is_ours
from regmeta.sync.policy import Policy
from regmeta.sync.run import Mirror, SyncReport, run_policy, sync_image


@dataclass(frozen=True, slots=True)
class FailedRun:
    """A policy whose upstream could not be asked for its images."""

    policy: str
    error: Error


def sync_one(
    settings: Settings,
    reference: str,
    destination: str | None,
    *,
    platforms: Sequence[str] = (),
    only_signed: bool = False,
    plain_http: bool = False,
    progress: Progress | None = None,
) -> SyncReport:
    """Bring one image of a remote registry; see :func:`regmeta.sync.run.sync_image`.

    A registry of the settings is spoken to as they say; of another one the defaults hold. Without
    *destination* it goes where it is there, under its own tag.

    Raises:
        InvalidName, InvalidDigest: *reference* or *destination* is none.
        UsageError: one of *platforms* is none, or *destination* has a digest.
    """
    for each in platforms:
        reason = wrong_with_platform(each)
        if reason is not None:
            raise UsageError(f"platform {reason}")
    remote = RemoteReference.parse(reference)
    target = Reference.parse(destination or remote.repository)
    if target.digest is not None:
        raise UsageError(f"{destination}: a destination has no digest: it is the image's")
    wanted = str(remote.digest) if remote.digest is not None else remote.tag or "latest"
    tag = target.tag or (remote.tag if remote.digest is not None else wanted)
    item = Item(remote.repository, wanted, target.repository, tag)
    stopped = Stopping()
    with ExitStack() as stack:
        policy, upstream = mirroring.for_reference(settings, remote, stopped, plain_http=plain_http)
        stack.callback(upstream.close)
        policy = replace(
            policy,
            platforms=tuple(platforms) or policy.platforms,
            only_signed=only_signed or policy.only_signed,
        )
        registry = stack.enter_context(open_for_writing(settings))
        return sync_image(mirror_of(policy, upstream, registry, stopped, progress), item)


def sync_policies(
    settings: Settings,
    names: Sequence[str] = (),
    *,
    believe_deletes: bool = False,
    progress: Progress | None = None,
) -> Iterator[SyncReport | FailedRun]:
    """Run policies of the settings one after the other, all of them or those of these names.

    Each report is given when its run has ended. A policy whose upstream does not answer does not keep the
    others from theirs.

    Raises:
        UsageError: there is no such policy, or none at all.
        StoreUnavailable, DatabaseUnavailable, Locked: nothing can be written here now.
    """
    chosen = chosen_policies(settings, names)
    with open_for_writing(settings) as registry:
        for policy in chosen:
            stopped = Stopping()
            with opened(settings, policy, stopped) as upstream:
                mirror = mirror_of(policy, upstream, registry, stopped, progress)
                try:
                    yield run_policy(mirror, believe_deletes=believe_deletes)
                except Error as error:
                    if is_ours(error):
                        raise
                    yield FailedRun(policy.name, without_frames(error))


def chosen_policies(settings: Settings, names: Sequence[str] = ()) -> list[Policy]:
    """Return the policies of these names, or all.

    Raises:
        UsageError: there is no such policy, or none at all.
    """
    policies = {policy.name: policy for policy in mirroring.policies_of(settings)}
    if not policies:
        raise UsageError("settings: no registry to sync from: add [[sync.registries]]")
    for name in names:
        if name not in policies:
            raise UsageError(f"settings: no registry {name!r} to sync from: there are {', '.join(policies)}")
    return [policies[name] for name in dict.fromkeys(names)] if names else list(policies.values())


@contextmanager
def on_demand(settings: Settings) -> Iterator[OnDemand]:
    """Lend what brings images when they are asked for, of all policies that are for it.

    Raises:
        UsageError: there is none.
    """
    policies = [policy for policy in chosen_policies(settings) if policy.on_demand]
    if not policies:
        raise UsageError("settings: no registry has on_demand = true")
    stopped = Stopping()
    with ExitStack() as stack:
        registry = stack.enter_context(open_for_writing(settings))
        mirrors = []
        for policy in policies:
            upstream = stack.enter_context(opened(settings, policy, stopped))
            mirrors.append(mirror_of(policy, upstream, registry, stopped, None))
        found = OnDemand(mirrors)
        stack.callback(found.close)
        try:
            yield found
        except BaseException:
            stopped.set()  # who is interrupted does not wait for a copy of hours
            raise


def mirror_of(
    policy: Policy,
    upstream: Upstream,
    registry: Writing,
    stopped: threading.Event,
    progress: Progress | None,
) -> Mirror:
    """Put together what a run works with."""
    return Mirror(
        policy,
        upstream,
        registry.registry,
        registry.writer,
        stopped,
        _has_ended(registry.store),
        progress if progress is not None else NoProgress(),
    )


def _has_ended(store: BlobStore) -> Callable[[str, UUID], bool]:
    """Return what tells of a process whether it has gone: it has no folder here, or no sign in the bucket."""

    def has_ended(host: str, owner: UUID) -> bool:
        try:
            return not may_live(store, host, owner)
        except StoreUnavailable:
            return False

    return has_ended


@contextmanager
def opened(settings: Settings, policy: Policy, stopped: threading.Event) -> Iterator[Upstream]:
    """Lend the upstream of a policy."""
    upstream = mirroring.upstream_of(settings, policy.name, stopped)
    try:
        yield upstream
    finally:
        upstream.close()
