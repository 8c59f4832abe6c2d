"""URLs are read in one way only."""

from __future__ import annotations

import pytest

from regmeta.sources.registry.places import BadURL, Place, join_url, parse_url


@pytest.mark.parametrize(
    ("url", "origin", "target"),
    [
        ("https://Ghcr.IO", "https://ghcr.io", "/"),
        ("HTTPS://ghcr.io:443/v2/?n=1#part", "https://ghcr.io", "/v2/?n=1"),
        ("http://a.:80?x=1", "http://a", "/?x=1"),
        ("http://[::1]:5000/a%2Fb", "http://[::1]:5000", "/a%2Fb"),
        ("http://127.0.0.1:443/", "http://127.0.0.1:443", "/"),
        ("http://a/p@q:r", "http://a", "/p@q:r"),
    ],
)
def test_url_is_taken_apart(url: str, origin: str, target: str) -> None:
    place, found = parse_url(url)
    assert (place.origin, found) == (origin, target)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a",
        "//a",
        "a:80",
        "ftp://a",
        "http://",
        "http:///a",
        "http://a:0",
        "http://a:65536",
        "http://a:port",
        "http://u@a",
        "http://u:p@a",
        "http://a\\@b",
        "http://a b",
        "http://a/b c",
        "http://a/\n",
        "http://é",
        "http://a%2Fb",
        "http://[::1",
        "http://[::1%25eth0]",
        "http://::1",
        "http://.",
        "http://a/é",
        "http://[a",
        "http://a/" + "x" * 20000,
    ],
)
def test_url_that_is_not_clear_is_refused(url: str) -> None:
    with pytest.raises(BadURL):
        parse_url(url)


def test_refusal_shows_neither_password_nor_query() -> None:
    for url in ("http://kim:hidden@a/", "http://a b/?sig=hidden"):
        with pytest.raises(BadURL) as raised:
            parse_url(url)
        assert "hidden" not in str(raised.value)


def test_reference_is_resolved_before_it_is_judged() -> None:
    base = "https://a:5000/v2/x/blobs/y"
    assert join_url(base, "/b?c") == (Place("https", "a", 5000), "/b?c")
    assert join_url(base, "//b/c") == (Place("https", "b", 443), "/c")
    assert join_url(base, "z") == (Place("https", "a", 5000), "/v2/x/blobs/z")
    for reference in ("//u@b/", "ftp://a/", "\\\\b/c", "/\\b", "http://[", "a b", "//b\t.c/"):
        with pytest.raises(BadURL):
            join_url(base, reference)


def test_list_of_hosts_may_name_the_port() -> None:
    place = Place("https", "a", 443)
    assert place.is_in(frozenset({"a"}))
    assert place.is_in(frozenset({"A:443"}))
    assert not place.is_in(frozenset({"a:80", "b", "aa"}))
