"""zot's own database, ``meta.db`` beside its storage: statistics of each manifest, and users' stars.

Of its buckets two are read: ``RepoMeta`` has one protobuf message for each repository, ``UserData`` one JSON
object for each user. An object of a user holds hashes of keys too: they are not looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from regmeta.errors import InvalidDigest, InvalidSource
from regmeta.oci import names, strict_json
from regmeta.oci.digest import Digest
from regmeta.sources.registry.text import shown
from regmeta.sources.zot import MAX_PULLS, ImageStatistics, RepositoryStatistics, is_never, is_pusher
from regmeta.sources.zot.bolt import BoltFile
from regmeta.sources.zot.protobuf import BadMessage, fields, message, number, text

_REPOSITORIES: Final = b"RepoMeta"
_USERS: Final = b"UserData"
# Fields of RepoMeta, of an entry of a map, of DescriptorStatistics, of Timestamp.
_STATISTICS, _STARS = 3, 9
_KEY, _VALUE = 1, 2
_PULLS, _LAST_PULL, _PUSH, _PUSHER = 1, 2, 3, 4
_SECONDS, _NANOSECONDS = 1, 2
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_SECONDS: Final = 2**38  # beyond the year 9999
_MAX_PROBLEMS: Final = 100  # of one repository

_Fans = dict[str, list[str]]  # users, by repository


def read_metadb(path: str) -> Iterator[RepositoryStatistics]:
    """Give what zot's database says of each repository, by name. The file is read at once.

    What is no statistics of a manifest is a problem of its repository, and no error.

    Raises:
        InvalidSource: it is no database of zot, or damaged. It may be told on the way.
        RemoteUnavailable: zot is writing to it all the time.
    """
    file = BoltFile(path)
    found = file.bucket(_REPOSITORIES)
    if found is None:
        raise InvalidSource(f"{path}: not a database of zot 2: it has no bucket RepoMeta")
    stars, bookmarks, unread = _fans(file)
    return _each(found, stars, bookmarks, unread)


def _each(
    found: Iterator[tuple[bytes, memoryview]], stars: _Fans, bookmarks: _Fans, unread: list[str]
) -> Iterator[RepositoryStatistics]:
    for key, value in found:
        name = key.decode("utf-8", "replace")
        if not names.is_repository(name):
            yield RepositoryStatistics(shown(name), problems=("not a repository name",))
            continue
        problems: list[str] = []
        images, count = _repository(value, problems)
        by, marked = tuple(sorted(stars.get(name, ()))), tuple(sorted(bookmarks.get(name, ())))
        yield RepositoryStatistics(name, images, count, by, marked, tuple(problems[:_MAX_PROBLEMS]))
    if unread:
        yield RepositoryStatistics("", problems=tuple(unread[:_MAX_PROBLEMS]))


def _repository(value: memoryview, problems: list[str]) -> tuple[tuple[ImageStatistics, ...], int]:
    images: dict[Digest, ImageStatistics] = {}
    stars = 0
    try:
        for field, content in fields(value):
            if field == _STARS:
                stars = min(MAX_PULLS, max(0, number(content)))
            elif field == _STATISTICS:
                image = _image(message(content), problems)
                if image is not None:
                    images[image.digest] = image  # of two entries with one key the last one counts
    except BadMessage as error:
        problems.insert(0, f"damaged: {error}")
    return tuple(images.values()), stars


def _image(entry: memoryview, problems: list[str]) -> ImageStatistics | None:
    """Read an entry of the map; None for the one without a key that zot puts in, and for what is none."""
    key, pulls, pushed_by = "", 0, ""
    last_pulled_at = pushed_at = None
    try:
        of_entry = dict(fields(entry))
        key = text(of_entry.get(_KEY, memoryview(b"")))
        if not key:
            return None
        for field, content in fields(message(of_entry.get(_VALUE, memoryview(b"")))):
            if field == _PULLS:
                pulls = number(content)
            elif field == _LAST_PULL:
                last_pulled_at = _time(message(content))
            elif field == _PUSH:
                pushed_at = _time(message(content))
            elif field == _PUSHER:
                pushed_by = text(content)
        digest = Digest.parse(key)
    except (BadMessage, InvalidDigest) as error:
        problems.append(f"{shown(key, 80)}: {error}")
        return None
    if not 0 <= pulls <= MAX_PULLS or not is_pusher(pushed_by):
        problems.append(f"{key}: {pulls} pulls, pushed by {shown(pushed_by, 80)!r}")
        return None
    return ImageStatistics(digest, pulls, last_pulled_at, pushed_at, pushed_by)


def _time(value: memoryview) -> datetime | None:
    parts = {field: number(content) for field, content in fields(value)}
    seconds, nanoseconds = parts.get(_SECONDS, 0), parts.get(_NANOSECONDS, 0)
    if not 0 < seconds < _MAX_SECONDS or not 0 <= nanoseconds < 10**9:
        return None
    try:
        at = _EPOCH + timedelta(seconds=seconds, microseconds=nanoseconds // 1000)
    except OverflowError:
        return None
    return None if is_never(at) else at


def _fans(file: BoltFile) -> tuple[_Fans, _Fans, list[str]]:
    """Return who starred and who bookmarked each repository, and what of users could not be read."""
    stars: _Fans = defaultdict(list)
    bookmarks: _Fans = defaultdict(list)
    problems: list[str] = []
    for key, value in file.bucket(_USERS) or ():
        user = key.decode("utf-8", "replace")
        try:
            document = strict_json.loads(bytes(value))
        except strict_json.StrictJSONError as error:
            problems.append(f"user {shown(user, 80)!r}: {error}")
            continue
        for name, fans in (("StarredRepos", stars), ("BookmarkedRepos", bookmarks)):
            for repository in _names(document, name):
                fans[repository].append(user)
    return stars, bookmarks, problems


def _names(document: Any, name: str) -> set[str]:
    listed = document.get(name) if isinstance(document, dict) else None
    return {each for each in listed if isinstance(each, str)} if isinstance(listed, list) else set()
