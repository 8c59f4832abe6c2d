"""What a store does wrong costs an ingest, and never the registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from regmeta import app, errors
from regmeta.app.stores import open_store
from regmeta.settings import Settings
from tests.builders import make_layout
from tests.support.fault_store import Fault, FaultStore, Kind, Plan
from tests.support.registry import counts, import_all, import_layout, keys_in, objects, scalar, tags

Faulty = Callable[..., Plan]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Faulty:
    """Let the store of every registry that is opened from now on go wrong as planned."""

    def plan_for(*faults: Fault) -> Plan:
        plan = Plan(*faults)
        monkeypatch.setattr("regmeta.app.open_store", lambda settings: FaultStore(open_store(settings), plan))
        return plan

    return plan_for


@pytest.mark.parametrize("kind", [Kind.RAISE, Kind.APPLY_THEN_FAIL])
@pytest.mark.parametrize("call", ["stage", "publish"])
def test_store_that_fails_takes_nothing_in_and_the_next_import_all(
    settings: Settings, layout: Path, faulty: Faulty, call: str, kind: Kind
) -> None:
    make_layout(layout, {"v1": [b"one", b"two"]})
    plan = faulty(Fault(call, kind))
    with app.open_for_writing(settings) as writing:
        with pytest.raises(errors.StoreUnavailable, match="as planned"):
            import_layout(writing, layout)
        assert plan.happened
        assert tags(writing.database) == {}
        assert set(counts(writing.database, "blobs", "manifests", "intents").values()) == {0}
        assert set(objects(writing.store)) <= keys_in(writing.database, "tombstones")
        import_all(writing, layout)
        assert tags(writing.database).keys() == {"v1"}


@pytest.mark.parametrize("kind", [Kind.SHORT, Kind.FLIP])
def test_bytes_spoilt_on_their_way_are_left_out(
    settings: Settings, layout: Path, faulty: Faulty, kind: Kind
) -> None:
    make_layout(layout, {"v1": [b"one", b"two"]})
    faulty(Fault("stage", kind))
    with app.open_for_writing(settings) as writing:
        [outcome] = import_layout(writing, layout)
        assert isinstance(outcome.error, errors.IntegrityError)
        assert tags(writing.database) == {}
        assert objects(writing.store) == {}
        import_all(writing, layout)


def test_other_writer_comes_first_while_a_publish_is_delayed(
    settings: Settings, layout: Path, faulty: Faulty
) -> None:
    make_layout(layout, {"v1": [b"one", b"two"]})

    def other() -> None:
        with app.open_for_writing(settings) as second:
            import_all(second, layout)

    faulty(Fault("publish", Kind.DELAY, first=other))
    with app.open_for_writing(settings) as writing:
        import_all(writing, layout)
        assert scalar(writing.database, "SELECT count(*) FROM tags") == 1
        buried = keys_in(writing.database, "tombstones")
        assert keys_in(writing.database, "blobs") | buried == set(objects(writing.store))
        assert len(buried) == 4


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        ("write_record", Kind.RAISE),
        ("write_record", Kind.APPLY_THEN_FAIL),
        ("list_records", Kind.FAIL_MIDWAY),
        ("list_records", Kind.TRUNCATE),
    ],
)
def test_snapshot_that_fails_does_not_fail_what_was_committed(
    settings: Settings, layout: Path, faulty: Faulty, call: str, kind: Kind
) -> None:
    make_layout(layout, {"v1": [b"one"]})
    with app.open_for_writing(settings) as writing:
        import_all(writing, layout)
    make_layout(layout / "2", {"v2": [b"two"]})
    plan = faulty(Fault(call, kind))
    with app.open_for_writing(settings) as writing:
        import_all(writing, layout / "2")
        assert plan.happened
        assert tags(writing.database).keys() == {"v1", "v2"}
    faulty()
    with app.open_for_writing(settings) as writing:
        assert counts(writing.database, "layout_outbox") == {"layout_outbox": 0}
