"""Policies as values: how long a failure waits, and what a policy's terms are."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regmeta.errors import UsageError
from regmeta.sync.policy import Backoff, Policy

POLICY = Policy("hub", ())


def test_wait_doubles_up_to_the_longest() -> None:
    backoff = Backoff(timedelta(minutes=1), timedelta(minutes=10))

    waits = [backoff.after(attempts).total_seconds() / 60 for attempts in (1, 2, 3, 4, 5, 6, 10_000)]

    assert waits == [1, 2, 4, 8, 10, 10, 10]


@given(st.integers(1, 10**6), st.integers(1, 10**9), st.integers(1, 100))
def test_wait_is_the_doubled_first_one_and_never_longer_than_the_longest(
    first_s: int, longest_s: int, attempts: int
) -> None:
    backoff = Backoff(timedelta(seconds=first_s), timedelta(seconds=longest_s))

    assert backoff.after(attempts).total_seconds() == min(first_s * 2 ** (attempts - 1), longest_s)


@pytest.mark.parametrize(
    "change",
    [
        {"platforms": ("linux/amd64",)},
        {"only_signed": True},
        {"referrers": False},
        {"cosign_tags": False},
        {"convert": "oci"},
    ],
)
def test_terms_change_with_what_decides_which_bytes_come(change: dict[str, object]) -> None:
    assert replace(POLICY, **change).terms != POLICY.terms  # type: ignore[arg-type]


def test_terms_stay_where_only_the_way_changes() -> None:
    other = replace(
        POLICY,
        name="other",
        poll=timedelta(hours=1),
        images_at_once=9,
        on_demand=True,
        upstream_deletes="delete",
    )

    assert other.terms == POLICY.terms
    assert replace(POLICY, platforms=("linux/arm", "linux/amd64")).terms == (
        replace(POLICY, platforms=("linux/amd64", "linux/arm", "linux/arm")).terms
    )


def test_terms_are_the_same_in_every_release() -> None:
    """They stand in rows: another text for the same terms would have everything converted again."""
    assert POLICY.terms == "005f5a6b9c37cfef"


def test_signed_images_are_never_converted() -> None:
    with pytest.raises(UsageError, match="only_signed and convert"):
        replace(POLICY, only_signed=True, convert="oci")
