"""A running zot, asked by its search extension (GraphQL) what it knows of its images.

The API tells of images with a tag, and of a multi-platform image as a whole; ``metadb`` of each manifest.
Which fields there are depends on its version: it is asked which before it is asked for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from regmeta.errors import InvalidDigest, InvalidSource, NotFound, RemoteRefused
from regmeta.oci import names, strict_json
from regmeta.oci.digest import Digest
from regmeta.sources.registry.calls import call, pull_scope
from regmeta.sources.registry.listing import list_repositories
from regmeta.sources.registry.text import shown
from regmeta.sources.registry.transport import Endpoint
from regmeta.sources.zot import MAX_PULLS, ImageStatistics, RepositoryStatistics, is_never, is_pusher

SEARCH: Final = "/v2/_zot/ext/search"
MAX_ANSWER: Final = 64 * 1024 * 1024  # [bytes] some 200,000 tags
_ASKED: Final = ("Digest", "DownloadCount", "LastPullTimestamp", "PushTimestamp", "PushedBy")
_FIELDS: Final = '{__type(name:"ImageSummary"){fields{name}}}'
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_MAX_PROBLEMS: Final = 100  # of one repository


class ZotApi:
    """One zot. *endpoint* is its base URL; it is not closed here. Not for several threads at once."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._fields: tuple[str, ...] | None = None

    def read(self, repositories: Iterable[str] | None = None) -> Iterator[RepositoryStatistics]:
        """Give what it knows of each repository: of those that are named, else of all that it lists.

        A repository that it does not tell of is a problem of that one, and no error.

        Raises:
            NotFound: it has no search extension.
            RemoteRefused: it does not let us in.
            RemoteUnavailable, UnsafeRemote: it did not answer, or sends us elsewhere.
            InvalidSource: it does not say what it can tell, or its list of repositories is none.
        """
        self._known_fields()
        for name in list_repositories(self._endpoint) if repositories is None else repositories:
            try:
                yield self.repository(name)
            except (NotFound, InvalidSource, RemoteRefused) as error:
                yield RepositoryStatistics(name, problems=(str(error),))

    def repository(self, name: str) -> RepositoryStatistics:
        """Return what it knows of one repository; of one that it hides from us, nothing.

        Raises:
            InvalidName: not of the grammar.
            InvalidSource: it says that something is wrong, as that there is none; or its answer is of no use.
            NotFound, RemoteRefused, RemoteUnavailable, UnsafeRemote: see :meth:`read`.
        """
        names.repository_name(name)  # so it needs no quoting in the query
        wanted = " ".join(self._known_fields())
        query = f'{{ExpandedRepoInfo(repo:"{name}"){{Images{{{wanted}}} Summary{{StarCount}}}}}}'
        data, said = self._ask(query, pull_scope(name))
        found = data.get("ExpandedRepoInfo")
        images: dict[Digest, ImageStatistics] = {}
        problems = [said] if said else []
        for each in _listed(found, "Images"):
            image = _image(each, problems)
            if image is not None:  # one for each tag: the same again
                images[image.digest] = image
        summary = _member(found, "Summary")
        stars = _member(summary, "StarCount")
        is_count = type(stars) is int and 0 <= stars <= MAX_PULLS
        return RepositoryStatistics(
            name, tuple(images.values()), stars if is_count else 0, problems=tuple(problems[:_MAX_PROBLEMS])
        )

    def _known_fields(self) -> tuple[str, ...]:
        if self._fields is None:
            try:
                answer, _ = self._ask(_FIELDS, None)
            except NotFound as error:
                raise NotFound(f"{self._endpoint.location}: no zot with search ({error})") from None
            listed = [_member(each, "name") for each in _listed(answer.get("__type"), "fields")]
            self._fields = tuple(name for name in _ASKED if name in listed)
            if not {"Digest", "DownloadCount"} <= set(self._fields):
                self._fields = None
                raise InvalidSource(f"{self._endpoint.location}: it does not count pulls")
        return self._fields

    def _ask(self, query: str, scope: str | None) -> tuple[dict[str, Any], str]:
        """Return the data of an answer, and what was wrong with a part of it."""
        path = f"{SEARCH}?query={quote(query, safe='')}"
        answer = call(self._endpoint, "GET", path, scope=scope, limit_bytes=MAX_ANSWER)
        try:
            document = strict_json.loads(answer.content)
        except strict_json.StrictJSONError as error:
            raise InvalidSource(f"{answer.where}: {error}") from None
        errors, data = _listed(document, "errors"), _member(document, "data")
        words = _member(errors[0], "message") if errors else None
        said = shown(words) if isinstance(words, str) else "an error" if errors else ""
        if not isinstance(data, dict) or (said and not any(data.values())):
            raise InvalidSource(f"{answer.where}: {said or 'an answer without data'}")
        return data, said


def _image(found: Any, problems: list[str]) -> ImageStatistics | None:
    digest, pulls, by = (_member(found, name) for name in ("Digest", "DownloadCount", "PushedBy"))
    try:
        parsed = Digest.parse(digest) if isinstance(digest, str) else None
    except InvalidDigest:
        parsed = None
    pulls, by = (0 if pulls is None else pulls), ("" if by is None else by)
    if parsed is None or type(pulls) is not int or not 0 <= pulls <= MAX_PULLS:
        problems.append(shown(f"no statistics of an image: {digest!r}, {pulls!r} pulls"))
        return None
    if not isinstance(by, str) or not is_pusher(by):
        problems.append(f"{parsed}: pushed by {shown(str(by), 80)!r}")
        by = ""
    last, pushed = (_time(_member(found, name)) for name in ("LastPullTimestamp", "PushTimestamp"))
    return ImageStatistics(parsed, pulls, last, pushed, by)


def _time(value: Any) -> datetime | None:
    """Read a time of RFC 3339; None for none, for Go's and protobuf's zero, and for what is no time."""
    if not isinstance(value, str) or len(value) > 40 or not _TIME.fullmatch(value):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return None if is_never(at) else at


def _member(found: Any, name: str) -> Any:
    return found.get(name) if isinstance(found, dict) else None


def _listed(found: Any, name: str) -> list[Any]:
    listed = _member(found, name)
    return listed if isinstance(listed, list) else []
