"""A running zot: what its search extension tells, of old and new versions, honest or not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from regmeta.errors import InvalidName, InvalidSource, NotFound, RemoteRefused, RemoteUnavailable
from regmeta.oci.digest import Digest
from regmeta.sources.registry.credentials import Credential, FixedCredentials
from regmeta.sources.zot import ImageStatistics, RepositoryStatistics
from regmeta.sources.zot import api as zot_api
from regmeta.sources.zot.api import ZotApi
from tests.support.registries.clients import endpoint_of
from tests.unit.sources.registry.listener import Answer, Listener, Seen, answer_json, listening, redirect

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")
LAST = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
PUSHED = datetime(2023, 1, 2, tzinfo=UTC)
NEW = ("RepoName", "Digest", "DownloadCount", "LastPullTimestamp", "PushTimestamp", "PushedBy")
OLD = ("RepoName", "Digest", "DownloadCount")
ROW = {
    "Digest": str(ONE),
    "DownloadCount": 12,
    "LastPullTimestamp": "2024-05-06T07:08:09.123456789Z",
    "PushTimestamp": "2023-01-02T01:00:00+01:00",
    "PushedBy": "ann",
}
_ASKED = re.compile(r'\{ExpandedRepoInfo\(repo:"([^"]+)"\)\{Images\{([A-Za-z ]+)\} Summary\{StarCount\}\}\}')


def info(*images: Any, stars: Any = 3) -> dict[str, Any]:
    return {"data": {"ExpandedRepoInfo": {"Images": list(images), "Summary": {"StarCount": stars}}}}


def zot(fields: tuple[str, ...] = NEW, **repositories: Any) -> Callable[[Seen], Answer]:
    """Answer as zot: a query that asks for what the schema does not have is refused."""

    def answer(seen: Seen) -> Answer:
        if seen.path == "/v2/_catalog":
            return answer_json({"repositories": list(repositories)})
        if seen.path != "/v2/_zot/ext/search":
            return Answer(404)
        (query,) = seen.query["query"]
        if "__type" in query:
            return answer_json({"data": {"__type": {"fields": [{"name": name} for name in fields]}}})
        asked = _ASKED.fullmatch(query)
        if asked is None or not set(asked[2].split()) <= set(fields):
            return answer_json({"errors": [{"message": "Cannot query field"}], "data": None}, 422)
        said = repositories.get(asked[1])
        if said is None:
            return answer_json({"errors": [{"message": "repo metadata not found"}], "data": None})
        return said if isinstance(said, Answer) else answer_json(said)

    return answer


@contextmanager
def asking(
    script: Callable[[Seen], Answer], credentials: FixedCredentials | None = None
) -> Iterator[tuple[ZotApi, Listener]]:
    with (
        listening(script) as listener,
        closing(endpoint_of(listener.url, credentials=credentials)) as endpoint,
    ):
        yield ZotApi(endpoint), listener


def test_each_repository_is_asked_once_and_each_manifest_told_once() -> None:
    never = {**ROW, "Digest": str(TWO), "DownloadCount": 0, "PushedBy": ""}
    never |= {"LastPullTimestamp": "1970-01-01T00:00:00Z", "PushTimestamp": "0001-01-01T00:00:00Z"}
    with asking(zot(a=info(ROW, ROW, never), b=info(stars=0))) as (api, listener):
        assert list(api.read()) == [
            RepositoryStatistics(
                "a", (ImageStatistics(ONE, 12, LAST, PUSHED, "ann"), ImageStatistics(TWO, 0, None, None)), 3
            ),
            RepositoryStatistics("b"),
        ]
    assert len(listener.at("/v2/_zot/ext/search")) == 3


def test_old_version_is_asked_for_what_it_has() -> None:
    row = {name: ROW[name] for name in OLD[1:]}
    with asking(zot(OLD, a=info(row))) as (api, _):
        assert api.repository("a").images == (ImageStatistics(ONE, 12, None, None),)


def test_repositories_can_be_named_and_one_that_fails_stops_no_other() -> None:
    with asking(zot(b=info(ROW), c=Answer(403), d=Answer(body=b"["))) as (api, listener):
        found = list(api.read(["a", "b", "c", "d"]))
    assert [(one.repository, len(one.images), len(one.problems)) for one in found] == [
        ("a", 0, 1),
        ("b", 1, 0),
        ("c", 0, 1),
        ("d", 0, 1),
    ]
    assert "repo metadata not found" in found[0].problems[0]
    assert not listener.at("/v2/_catalog")


def test_registry_without_search_is_told_from_one_that_does_not_answer() -> None:
    for script, error in (
        (lambda seen: Answer(404), NotFound),
        (lambda seen: Answer(503), RemoteUnavailable),
        (lambda seen: Answer(403), RemoteRefused),
        (lambda seen: answer_json({"data": {"__type": None}}), InvalidSource),
        (lambda seen: answer_json({"data": None, "errors": [{"message": 5}]}), InvalidSource),
        (lambda seen: answer_json([]), InvalidSource),
        (lambda seen: Answer(body=b"<html>"), InvalidSource),
    ):
        with asking(script) as (api, _), pytest.raises(error):
            list(api.read(["a"]))


def test_zot_that_goes_away_ends_the_list() -> None:
    with asking(zot(a=info(ROW), b=Answer(502))) as (api, _):
        found = api.read()
        assert next(found).repository == "a"
        with pytest.raises(RemoteUnavailable):
            next(found)


@pytest.mark.parametrize(
    "row",
    [
        None,
        7,
        [],
        {},
        {**ROW, "Digest": 5},
        {**ROW, "Digest": "sha256:x"},
        {**ROW, "DownloadCount": -1},
        {**ROW, "DownloadCount": 2**31},
        {**ROW, "DownloadCount": True},
        {**ROW, "DownloadCount": "12"},
        {**ROW, "DownloadCount": 1.5},
    ],
)
def test_image_that_is_none_is_a_problem(row: Any) -> None:
    with asking(zot(a=info({**ROW, "Digest": str(TWO)}, row))) as (api, _):
        found = api.repository("a")
    assert [image.digest for image in found.images] == [TWO]
    assert len(found.problems) == 1


@pytest.mark.parametrize(
    "at", [None, 5, "", "yesterday", "2024-05-06", "2024-05-06T07:08:09", "2024-13-06T07:08:09Z"]
)
def test_time_that_is_none_is_never(at: Any) -> None:
    with asking(zot(a=info({**ROW, "LastPullTimestamp": at, "PushTimestamp": at}))) as (api, _):
        assert api.repository("a").images == (ImageStatistics(ONE, 12, None, None, "ann"),)


@pytest.mark.parametrize("by", ["a\nb", "x" * 300, " ann", 7])
def test_pusher_whose_name_cannot_be_shown_is_left_out(by: Any) -> None:
    with asking(zot(a=info({**ROW, "PushedBy": by}))) as (api, _):
        found = api.repository("a")
    assert (found.images[0].pushed_by, len(found.problems)) == ("", 1)


@pytest.mark.parametrize(
    "said", [{"data": {"ExpandedRepoInfo": None}}, {"data": {}}, info(stars="many"), info(stars=-1)]
)
def test_repository_that_is_hidden_from_us_has_nothing(said: Any) -> None:
    with asking(zot(a=said)) as (api, _):
        assert api.repository("a") == RepositoryStatistics("a")


def test_answer_of_which_a_part_failed_is_taken_and_says_so() -> None:
    with asking(zot(a=info(ROW) | {"errors": [{"message": "one image is broken"}]})) as (api, _):
        found = api.repository("a")
    assert (len(found.images), found.problems) == (1, ("one image is broken",))


def test_answer_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with asking(zot(a=info(*[ROW] * 20))) as (api, _):
        api._known_fields()
        monkeypatch.setattr(zot_api, "MAX_ANSWER", 1000)
        with pytest.raises(InvalidSource, match="more than 1000 bytes"):
            api.repository("a")


def test_name_that_would_change_the_query_is_refused() -> None:
    with asking(zot()) as (api, listener):
        with pytest.raises(InvalidName):
            api.repository('a"){Name}}')
        assert not listener.seen


def test_credentials_are_sent_to_zot_and_no_redirect_is_followed() -> None:
    def script(seen: Seen) -> Answer:
        if seen.authorization is None:
            return Answer(401, (("WWW-Authenticate", 'Basic realm="zot"'),))
        return redirect("http://127.0.0.1:1/v2/") if "Expanded" in seen.target else zot(a=info())(seen)

    with listening(script) as listener:
        login = FixedCredentials({f"{listener.host}:{listener.port}": Credential("kim", "pw")})
        with closing(endpoint_of(listener.url, credentials=login)) as endpoint:
            found = list(ZotApi(endpoint).read(["a"]))
    assert "307" in found[0].problems[0]
    assert len(listener.seen) == 3
