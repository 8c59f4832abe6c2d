"""Column types: what rows hold, and what is refused before it gets there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql, sqlite

from regmeta.errors import InvalidDigest
from regmeta.models import Base, DatabaseClock
from regmeta.models.base import DigestType, UtcTime
from regmeta.oci.digest import Digest

DIALECT = sqlite.dialect()
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=ZONES)


@given(MOMENTS)
def test_time_comes_back_as_the_same_moment_in_utc(moment: datetime) -> None:
    stored = UtcTime().process_bind_param(moment, DIALECT)
    found = UtcTime().process_result_value(stored, DIALECT)
    assert isinstance(stored, int)
    assert found == moment
    assert found is not None
    assert found.tzinfo is UTC


@given(MOMENTS, MOMENTS)
def test_times_sort_as_they_are_stored(one: datetime, two: datetime) -> None:
    stored = [UtcTime().process_bind_param(moment, DIALECT) for moment in (one, two)]
    assert stored[0] is not None
    assert stored[1] is not None
    assert (one < two) == (stored[0] < stored[1])


def test_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="without a time zone"):
        UtcTime().process_bind_param(datetime(2024, 1, 1), DIALECT)
    assert UtcTime().process_bind_param(None, DIALECT) is None
    assert UtcTime().process_result_value(None, DIALECT) is None


@given(st.binary(), st.sampled_from(["sha256", "sha512"]))
def test_digest_is_one_byte_and_its_hash(content: bytes, algorithm: str) -> None:
    digest = Digest.of(content, algorithm)
    stored = DigestType().process_bind_param(digest, DIALECT)
    assert stored is not None
    assert len(stored) == {"sha256": 33, "sha512": 65}[algorithm]
    assert DigestType().process_result_value(stored, DIALECT) == digest


@pytest.mark.parametrize("stored", [b"", b"\1", b"\3" + bytes(32), b"\1" + bytes(31), b"\2" + bytes(32)])
def test_bytes_that_are_no_digest_are_refused(stored: bytes) -> None:
    with pytest.raises(InvalidDigest):
        DigestType().process_result_value(stored, DIALECT)


def test_clock_is_not_the_start_of_the_transaction() -> None:
    text = str(DatabaseClock().compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    assert "clock_timestamp()" in text
    assert "now()" not in text


def test_every_reference_to_content_has_an_index_that_starts_with_it() -> None:
    """Else each deletion of a blob or manifest reads a whole table."""
    for table in Base.metadata.tables.values():
        starts = {next(iter(index.columns)).name for index in table.indexes}
        starts |= {next(iter(table.primary_key.columns)).name}
        for key in table.foreign_keys:
            if key.column.table.name in ("blobs", "manifests"):
                assert key.parent.name in starts, key.parent
