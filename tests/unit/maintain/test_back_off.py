"""How long what has failed is left alone, and for how long a store that is away."""

from __future__ import annotations

from datetime import timedelta

import pytest

from regmeta.app.writers import lifetimes_of
from regmeta.ingest.plan import Lifetimes
from regmeta.maintain.collect import pause
from regmeta.maintain.collect.backoff import ERROR_CHARACTERS, back_off, in_short
from regmeta.settings import SHORTEST_UPLOAD, Settings


@pytest.mark.parametrize(("attempts", "minutes"), [(1, 1), (2, 2), (3, 4), (10, 512), (11, 1024), (12, 1440)])
def test_wait_is_up_to_a_time_that_doubles_with_each_attempt(attempts: int, minutes: int) -> None:
    assert back_off(attempts, lambda: 1.0) == timedelta(minutes=minutes)
    assert back_off(attempts, lambda: 0.25) == timedelta(minutes=minutes) / 4
    assert back_off(attempts, lambda: 0.0) == timedelta(seconds=1)
    assert back_off(attempts + 10_000, lambda: 1.0) == timedelta(hours=24)


@pytest.mark.parametrize(("pauses", "seconds"), [(0, 5), (1, 10), (7, 640), (8, 900), (10_000, 900)])
def test_pause_doubles_up_to_a_quarter_of_an_hour(pauses: int, seconds: int) -> None:
    assert pause.length(pauses, lambda: 1.0) == timedelta(seconds=seconds)
    assert pause.length(pauses, lambda: 0.0) == timedelta(seconds=seconds) / 2


def test_error_that_a_row_keeps_is_short_and_text() -> None:
    assert in_short("a\0b") == "ab"
    assert len(in_short("x" * 10_000)) == ERROR_CHARACTERS


def test_times_that_are_not_set_are_the_usual_ones() -> None:
    assert lifetimes_of(Settings()) == Lifetimes()


def test_shortest_upload_is_what_an_intent_lasts() -> None:
    assert Lifetimes().intent == SHORTEST_UPLOAD
