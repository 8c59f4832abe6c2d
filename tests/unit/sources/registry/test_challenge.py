"""WWW-Authenticate, parsed strictly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmeta.sources.registry.challenge import BadChallenge, Challenge, parse_challenges


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        (" , ,", []),
        ("Basic", [("basic", {})]),
        ('BASIC Realm="x"', [("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/b?c=d",service="e f",scope="repository:g/h:pull,push"',
            [("bearer", {"realm": "https://a/b?c=d", "service": "e f", "scope": "repository:g/h:pull,push"})],
        ),
        ('Bearer realm = "a" , service=b', [("bearer", {"realm": "a", "service": "b"})]),
        (r'Bearer realm="a\"b\\c, Basic x=y"', [("bearer", {"realm": 'a"b\\c, Basic x=y'})]),
        ('Basic realm="", Bearer realm="b"', [("basic", {"realm": ""}), ("bearer", {"realm": "b"})]),
        ("Negotiate, NTLM TlRMTVNTUA==, Basic", [("negotiate", {}), ("ntlm", {}), ("basic", {})]),
    ],
)
def test_challenges_are_found(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges([header]) == [Challenge(scheme, parameters) for scheme, parameters in expected]


def test_header_lines_are_joined() -> None:
    assert [c.scheme for c in parse_challenges(["Basic", 'Bearer realm="a"'])] == ["basic", "bearer"]


@pytest.mark.parametrize(
    "header",
    [
        'Bearer realm="a',
        'Bearer realm="a\\"',
        "Basic a=b c",
        'Bearer realm="a" service="b"',
        'Bearer "a"',
        'Bearer realm="a"b',
        'Bearer realm="a", Realm="b"',
        'Bearer realm="a\nb"',
        "Bearer realm=https://a",
        'Bearer realm="a\x00"',
        "=",
        '"Bearer"',
        'Bearer realm="' + "a" * 9000 + '"',
        "Basic x y",
    ],
)
def test_header_that_is_not_of_the_grammar_is_refused(header: str) -> None:
    with pytest.raises(BadChallenge):
        parse_challenges([header])


@given(st.text(alphabet='aB=", \\\t/:~', max_size=60))
def test_any_header_is_parsed_or_refused(header: str) -> None:
    try:
        parse_challenges([header])
    except BadChallenge:
        return


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_quoted_text_comes_back_as_it_was(text: str) -> None:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_challenges([f'Bearer realm="{quoted}", service=s']) == [
        Challenge("bearer", {"realm": text, "service": "s"})
    ]
