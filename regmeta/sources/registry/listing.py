"""Lists of names: tags of a repository, repositories of a registry (distribution-spec, "Content Discovery").

A list is whole or an error. Half of one, or one that a name was dropped from, would make a mirror take the
rest for deleted.
"""

from __future__ import annotations

from typing import Final

from regmeta.errors import InvalidName, InvalidSource
from regmeta.oci import names, strict_json
from regmeta.sources.registry.calls import CATALOG_SCOPE, pull_scope
from regmeta.sources.registry.paging import Page, pages
from regmeta.sources.registry.transport import Endpoint

MAX_NAMES: Final = 1_000_000
PAGE_NAMES: Final = 1000  # what is asked for; Debian's registry and others refuse to give more


def list_tags(endpoint: Endpoint, repository: str) -> list[str]:
    """Return all tags of a repository, in the registry's order.

    Raises:
        NotFound: there is no such repository.
        InvalidSource: the answer is no list of tags, or has no end.
        UnsafeRemote: a next page is elsewhere.
        RemoteUnavailable, RemoteRefused: the registry did not answer, or does not let us in.
    """
    path = f"/v2/{names.repository_name(repository)}/tags/list?n={PAGE_NAMES}"
    return _names(endpoint, path, pull_scope(repository), "tags")


def list_repositories(endpoint: Endpoint) -> list[str]:
    """Return all repositories of a registry, in its order; raises as :func:`list_tags`."""
    return _names(endpoint, f"/v2/_catalog?n={PAGE_NAMES}", CATALOG_SCOPE, "repositories")


def _names(endpoint: Endpoint, path: str, scope: str, key: str) -> list[str]:
    check = names.tag_name if key == "tags" else names.repository_name
    found: dict[str, None] = {}
    # Who keeps manifests elsewhere may list their tags there too; a catalog is the registry's own.
    for page in pages(endpoint, path, scope=scope, follow=key == "tags"):
        before = len(found)
        for name in _names_of(page, key):
            try:
                found[check(name)] = None
            except InvalidName as error:
                raise InvalidSource(f"{page.where}: {error}") from None
        if len(found) > MAX_NAMES:
            raise InvalidSource(f"{page.where}: more than {MAX_NAMES} {key}")
        if len(found) == before and not page.is_last:
            raise InvalidSource(f"{page.where}: names nothing new, and says that more follows")
    return list(found)


def _names_of(page: Page, key: str) -> list[str]:
    try:
        document = strict_json.loads(page.content)
    except strict_json.StrictJSONError as error:
        raise InvalidSource(f"{page.where}: {error}") from None
    if not isinstance(document, dict) or key not in document:
        raise InvalidSource(f"{page.where}: no list of {key}")
    found = document[key]
    if found is None:  # an empty list, as Go writes it
        return []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise InvalidSource(f"{page.where}: {key} is not a list of strings")
    return found
