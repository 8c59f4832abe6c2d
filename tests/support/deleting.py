"""What tests of deletes look at."""

from __future__ import annotations

from regmeta.app import Writing
from regmeta.oci.digest import Digest
from regmeta.query.lists import every
from regmeta.query.lists.manifests import manifests
from tests.support.registry import rows
from tests.support.verified import verified


def here(writing: Writing, repository: str = "app") -> set[Digest]:
    """Return the manifests that readers find."""
    found = every(lambda after: manifests(writing.database, repository, after=after))
    return {item.digest for item in found if item.digest is not None}


def stored(writing: Writing) -> set[Digest]:
    """Return the manifests that there are rows of."""
    found = rows(writing.database, "SELECT digest FROM manifests")
    return {Digest.from_bytes(bytes(digest)) for (digest,) in found}


def events(writing: Writing) -> list[str]:
    """Return the kinds of all events, in order."""
    return [kind for (kind,) in rows(writing.database, "SELECT kind FROM events ORDER BY id")]


def state(writing: Writing, repository: str = "app") -> str:
    """Return a repository's state."""
    [(found,)] = rows(writing.database, "SELECT state FROM repositories WHERE name = :of", of=repository)
    return str(found)


def assert_verified(writing: Writing) -> None:
    """Check that ``verify`` finds nothing, bytes and layouts included."""
    assert verified(writing.database, writing.store).findings == []
