"""What refers to a manifest (distribution-spec, "Listing Referrers"): by the API, else by the tag schema."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from enum import Enum, auto
from typing import Final

from regmeta.errors import InputError, InvalidSource, NotFound
from regmeta.oci import media_types, names, strict_json
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.sources.registry.calls import Answer, call, pull_scope
from regmeta.sources.registry.manifests import get_manifest
from regmeta.sources.registry.paging import MAX_PAGE_BYTES, pages
from regmeta.sources.registry.transport import Endpoint

MAX_REFERRERS: Final = 100_000

# A registry without the API answers 404 or 405. Some leave such paths to the web site around them, which
# sends a browser on (ghcr.io: 303); 400 is the answer to a digest of an algorithm that the API does not know.
# None of these is a failure of the registry, and none says that there are no referrers.
_NO_API: Final = frozenset({301, 302, 303, 307, 308, 400, 404, 405})
_NO_SUCH_NAME: Final = frozenset({"NAME_UNKNOWN", "MANIFEST_UNKNOWN"})


class _Api(Enum):
    MISSING = auto()
    UNCLEAR = auto()


class Referrers:
    """Lists referrers, and remembers which endpoints have the API. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._has_api: dict[Endpoint, bool] = {}

    @property
    def has_api(self) -> bool | None:
        """Whether an endpoint has the API; None until one has said."""
        with self._lock:
            return any(self._has_api.values()) if self._has_api else None

    def of(self, endpoint: Endpoint, repository: str, digest: Digest) -> list[Descriptor]:
        """Return the referrers of a manifest, each once.

        Raises:
            NotFound: neither the API nor the tag of the schema is there.
            InvalidSource: the answer is not a list of descriptors, or has no end.
            UnsafeRemote: a next page is elsewhere.
            RemoteUnavailable, RemoteRefused: the registry did not answer, or does not let us in.
        """
        names.repository_name(repository)
        with self._lock:
            known = self._has_api.get(endpoint)
        if known is not False:
            found = self._by_api(endpoint, repository, digest)
            if not isinstance(found, _Api):
                self._remember(endpoint, True)
                return found
            if found is _Api.MISSING and known is None:
                self._remember(endpoint, False)
        return _by_tag(endpoint, repository, digest)

    def _remember(self, endpoint: Endpoint, has_api: bool) -> None:
        with self._lock:
            self._has_api[endpoint] = has_api

    def _by_api(self, endpoint: Endpoint, repository: str, digest: Digest) -> list[Descriptor] | _Api:
        path = f"/v2/{repository}/referrers/{digest}"
        scope, accept = pull_scope(repository), (media_types.OCI_INDEX,)
        first = call(
            endpoint,
            "GET",
            path,
            scope=scope,
            accept=accept,
            limit_bytes=MAX_PAGE_BYTES,
            expect=_NO_API | {200},
        )
        if first.status != 200:
            return _Api.UNCLEAR if first.status == 400 or _names_nothing(first) else _Api.MISSING
        found: dict[Digest, Descriptor] = {}
        for page in pages(endpoint, path, scope=scope, accept=accept, first=first):
            before = len(found)
            _add(found, _descriptors(page.content, page.where), page.where)
            if len(found) == before and not page.is_last:
                raise InvalidSource(f"{page.where}: lists nothing new, and says that more follows")
        return list(found.values())


def _by_tag(endpoint: Endpoint, repository: str, digest: Digest) -> list[Descriptor]:
    tag = names.referrers_tag(digest)
    found = get_manifest(endpoint, repository, tag)
    where = f"{endpoint.location}/{repository}:{tag}"
    if found.descriptor.media_type not in media_types.INDEXES:
        # Somebody's own tag of that name: "not a valid image index", which the specification says is none.
        raise NotFound(f"{where}: is {found.descriptor.media_type}, not an index")
    listed: dict[Digest, Descriptor] = {}
    _add(listed, _descriptors(found.content, where), where)
    return list(listed.values())


def _add(found: dict[Digest, Descriptor], more: Iterable[Descriptor], where: str) -> None:
    for descriptor in more:
        found.setdefault(descriptor.digest, descriptor)
        if len(found) > MAX_REFERRERS:
            raise InvalidSource(f"{where}: more than {MAX_REFERRERS} referrers")


def _descriptors(content: bytes, where: str) -> list[Descriptor]:
    try:
        document = strict_json.loads(content)
    except strict_json.StrictJSONError as error:
        raise InvalidSource(f"{where}: {error}") from None
    entries = document.get("manifests") if isinstance(document, dict) else None
    if entries is None and isinstance(document, dict) and "manifests" in document:
        return []  # an empty list, as Go writes it
    if not isinstance(entries, list):
        raise InvalidSource(f"{where}: not an index of referrers")
    try:
        return [Descriptor.parse(entry, f"{where}: manifests[{i}]") for i, entry in enumerate(entries)]
    except InputError as error:
        raise InvalidSource(str(error)) from None


def _names_nothing(answer: Answer) -> bool:
    """Tell the API's own "no such repository" from a path that the registry does not know."""
    try:
        document = strict_json.loads(answer.content)
    except strict_json.StrictJSONError:
        return False
    errors = document.get("errors") if isinstance(document, dict) else None
    return isinstance(errors, list) and any(
        isinstance(error, dict) and error.get("code") in _NO_SUCH_NAME for error in errors[:10]
    )
