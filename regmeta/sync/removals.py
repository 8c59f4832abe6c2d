"""What the upstream has no more goes here as well, where the policy says so.

A tag goes only if a sync brought it, nobody moved it since, no other repository of the policy has brought it
as well, and the upstream's list of tags, read whole, is without it. An error or an empty list says nothing
(I8); when more than half of a repository's tags would go, it is a mistake until somebody says that it is
none. The history of tags undoes it.
"""

from __future__ import annotations

from typing import Final

from regmeta.errors import Error, NotFound
from regmeta.ingest.tags import remove_tag
from regmeta.ingest.unit_of_work import Writer
from regmeta.sync.items import ALL_TAGS, Item
from regmeta.sync.listing import Repository, is_wanted
from regmeta.sync.pipeline import is_ours
from regmeta.sync.policy import Policy
from regmeta.sync.records import ItemKey, ItemOutcome, KnownItem, known_items
from regmeta.sync.selection import rule_of

PLAUSIBLE_TAGS: Final = 10  # so many may go at once, whatever their share
_HERE: Final = ("copied", "unchanged", "failed")


def removals(writer: Writer, policy: Policy, listed: Repository, *, believe: bool) -> list[ItemOutcome]:
    """End the tags that a repository of the upstream, read whole, has no more; return their outcomes.

    Raises:
        DatabaseUnavailable, Locked: it cannot be done now.
    """
    if not listed.listed:
        return []
    before = known_items(writer.database, policy.name, source=listed.source)
    mine = {
        key: item
        for key, item in before.items()
        if item.outcome in _HERE
        and item.digest is not None  # of a failure: that of the last success
        and key.destination == listed.repository
        and ":" not in key.reference
        and key.reference != ALL_TAGS
    }
    gone = {key: item for key, item in mine.items() if key.reference not in listed.listed}
    if not gone:
        return []
    if not believe and len(gone) > PLAUSIBLE_TAGS and 2 * len(gone) > len(mine):
        return [_refused(policy, listed, len(gone), len(mine))]
    taken = _taken(writer, policy, listed)
    return [
        _outcome(policy, key, gone[key], f"the upstream has it no more; here it is {taken[key.reference]}'s")
        if key.reference in taken
        else _remove(writer, policy, key, gone[key])
        for key in sorted(gone)
    ]


def _taken(writer: Writer, policy: Policy, listed: Repository) -> dict[str, str]:
    """Return the tags here that another repository of the policy has brought too, and which one it was."""
    taken: dict[str, str] = {}
    for key, item in known_items(writer.database, policy.name, destination=listed.repository).items():
        if key.source == listed.source or item.outcome not in _HERE or item.digest is None:
            continue
        rule = rule_of(policy, key.source)
        tag = key.reference
        if rule is not None and is_wanted(rule, Item(key.source, tag, listed.repository, tag)):
            taken[tag] = key.source
    return taken


def _remove(writer: Writer, policy: Policy, key: ItemKey, item: KnownItem) -> ItemOutcome:
    try:
        remove_tag(writer, key.destination, key.reference, item.digest)
    except NotFound:
        return _outcome(
            policy, key, item, "the upstream has it no more; here it is gone already, or was moved"
        )
    except Error as error:
        if is_ours(error):
            raise
        return ItemOutcome.failed(key, policy.terms, error)
    return _outcome(policy, key, item, "the upstream has it no more")


def _outcome(policy: Policy, key: ItemKey, item: KnownItem, reason: str) -> ItemOutcome:
    return ItemOutcome(*key, "removed", policy.terms, item.upstream_digest, item.digest, reason=reason)


def _refused(policy: Policy, repository: Repository, gone: int, of: int) -> ItemOutcome:
    return ItemOutcome(
        repository.source,
        ALL_TAGS,
        repository.repository,
        "failed",
        policy.terms,
        reason=f"{gone} of {of} tags are gone upstream: nothing was removed here (--believe-deletes does it)",
        error_class="ImplausibleDeletes",
    )
