"""Retry-After in its two forms, and in none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from regmeta.sources.registry.limits import retry_after_s


def test_seconds_and_dates_are_understood() -> None:
    assert retry_after_s("0") == 0.0
    assert retry_after_s(" 120 ") == 120.0
    ahead = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert retry_after_s(ahead) == pytest.approx(3600, abs=60)
    assert retry_after_s("Mon, 01 Jan 2024 00:00:00 GMT") == 0.0
    assert retry_after_s("Mon, 01 Jan 2024 00:00:00 -0000") == 0.0


@pytest.mark.parametrize(
    "value", [None, "", "-1", "1.5", "soon", "1e9", "9" * 30, "٣", "Mon, 99 Foo 9999 00:00:00 GMT"]
)
def test_anything_else_says_nothing(value: str | None) -> None:
    assert retry_after_s(value) is None
