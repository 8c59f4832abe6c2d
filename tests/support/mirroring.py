"""Mirrors for tests: a policy, an upstream of a registry of the test, and what a run did."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from regmeta.app import Writing
from regmeta.oci.descriptor import REF_NAME
from regmeta.oci.digest import Digest
from regmeta.sources.registry.terms import Terms
from regmeta.sync.items import Item
from regmeta.sync.pipeline import NoProgress, Progress
from regmeta.sync.policy import Backoff, ContentRule, Policy
from regmeta.sync.records import ItemOutcome
from regmeta.sync.run import Mirror, SyncReport, run_policy, sync_image
from tests.builders import LayoutBuilder, digest_of
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.clients import QUICK, upstream_of
from tests.support.registries.docker_registry import DockerRegistry
from tests.support.registry import rows

NAME = "hub"
AT_ONCE = Backoff(timedelta(0), timedelta(0))
"""What failed is due again at once."""


def policy_of(*prefixes: str, **options: Any) -> Policy:
    """Return a policy for repositories, ``app`` if none is named. What failed is due again at once."""
    rules = tuple(ContentRule(prefix) for prefix in prefixes or ("app",))
    return Policy(**{"name": NAME, "content": rules, "backoff": AT_ONCE, **options})


@contextmanager
def mirror_of(
    remote: BadRegistry | DockerRegistry,
    writing: Writing,
    policy: Policy | None = None,
    *,
    progress: Progress | None = None,
    terms: Terms = QUICK,
    **options: Any,
) -> Iterator[Mirror]:
    """Open the mirror of a registry; *options* are the policy's if none is given."""
    with upstream_of(remote.url, terms=terms) as upstream:
        yield Mirror(
            policy if policy is not None else policy_of(**options),
            upstream,
            writing.registry,
            writing.writer,
            threading.Event(),
            lambda host, owner: not writing.store.staging_exists(owner),
            progress if progress is not None else NoProgress(),
        )


def sync(
    remote: BadRegistry | DockerRegistry, writing: Writing, *prefixes: str, **options: Any
) -> SyncReport:
    """Run a policy once."""
    run = {name: options.pop(name) for name in ("only_due", "believe_deletes") if name in options}
    terms = options.pop("terms", QUICK)
    with mirror_of(remote, writing, policy_of(*prefixes, **options), terms=terms) as mirror:
        return run_policy(mirror, **run)


def bring(
    remote: BadRegistry | DockerRegistry,
    writing: Writing,
    reference: str,
    repository: str = "app",
    **options: Any,
) -> SyncReport:
    """Bring one image: ``v1`` or a digest."""
    tag = None if ":" in reference else reference
    with mirror_of(remote, writing, **options) as mirror:
        return sync_image(mirror, Item(repository, reference, repository, tag))


def outcome_of(report: SyncReport, reference: str) -> ItemOutcome:
    """Return the one outcome of a tag."""
    [found] = [item for item in report.items if item.reference == reference]
    return found


def noted(writing: Writing) -> dict[str, tuple[str, str | None, int]]:
    """Return the rows of items: by reference the outcome, the error's class and the attempts."""
    found = rows(writing.database, "SELECT reference, outcome, error_class, attempts FROM sync_items")
    return {
        reference: (outcome, error_class, attempts) for reference, outcome, error_class, attempts in found
    }


def fetched(registry: BadRegistry, kind: str = "(manifests|blobs)") -> int:
    """Return how many manifests and blobs were read whole so far."""
    return registry.count("GET", f"/{kind}/")


def blobs_fetched(registry: BadRegistry) -> list[str]:
    """Return the digests of blobs that were read, one for each request."""
    return [request.path.rpartition("/")[2] for request in registry.seen("GET", "/blobs/")]


def tags_of(builder: LayoutBuilder) -> dict[str, Digest]:
    """Return what the tags of a layout name; of a name that was given twice the last."""
    return {
        entry["annotations"][REF_NAME]: digest_of(entry)
        for entry in builder.entries
        if REF_NAME in entry.get("annotations", {})
    }
