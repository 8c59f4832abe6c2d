"""The store that goes wrong: as planned, and not otherwise."""

from __future__ import annotations

import inspect

import pytest

from regmeta import errors
from regmeta.store import BlobStore, Staging
from tests.support.fault_store import Fault, FaultStaging, FaultStore, Kind, Plan
from tests.unit.store.objects import CONTENT, put, read, stage


@pytest.mark.parametrize(
    ("contract", "wrapper"), [(BlobStore, FaultStore), (Staging, FaultStaging)], ids=["store", "staging"]
)
def test_every_call_of_the_contract_is_there(contract: type, wrapper: type) -> None:
    def calls(of: type) -> set[str]:
        return {name for name, _ in inspect.getmembers(of) if not name.startswith("_")}

    assert calls(wrapper) == calls(contract)


def test_without_a_plan_it_is_the_store_below(store: BlobStore) -> None:
    faulty: BlobStore = FaultStore(store, Plan())
    staging = faulty.open_staging()
    key = put(staging)
    assert read(faulty, key) == CONTENT
    assert [info.key for info in faulty.walk()] == [key]
    staging.write_record("store.json", b"{}")
    assert faulty.read_record("store.json") == b"{}"
    faulty.delete_record("store.json")
    faulty.delete([key])
    assert faulty.stat(key) is None
    staging.close()


def test_call_that_raises_has_no_effect(store: BlobStore) -> None:
    plan = Plan(Fault("publish", Kind.RAISE))
    staging = FaultStore(store, plan).open_staging()
    staged = stage(staging)
    with pytest.raises(errors.StoreUnavailable, match="as planned"):
        staging.publish([staged])
    assert store.stat(staged.key) is None
    staging.publish([staged])
    assert store.stat(staged.key) is not None
    assert [fault.call for fault in plan.happened] == ["publish"]
    staging.close()


def test_call_whose_answer_is_lost_has_its_effect(store: BlobStore) -> None:
    staging = FaultStore(store, Plan(Fault("publish", Kind.APPLY_THEN_FAIL))).open_staging()
    staged = stage(staging)
    with pytest.raises(errors.StoreUnavailable, match="no answer"):
        staging.publish([staged])
    assert store.stat(staged.key) is not None
    staging.close()


def test_something_else_comes_before_a_delayed_call(store: BlobStore) -> None:
    seen: list[bool] = []
    staging = store.open_staging()
    staged = stage(staging)

    def look() -> None:
        seen.append(store.stat(staged.key) is None)

    FaultStaging(staging, Plan(Fault("publish", Kind.DELAY, first=look))).publish([staged])
    assert seen == [True]
    assert store.stat(staged.key) is not None
    staging.close()


def test_call_of_a_number_goes_wrong_and_for_good_all_later_ones(store: BlobStore) -> None:
    once = FaultStore(store, Plan(Fault("settle", Kind.RAISE, number=2)))
    always = FaultStore(store, Plan(Fault("settle", Kind.RAISE, number=2, for_good=True)))
    assert [_fails(once) for _ in range(4)] == [False, True, False, False]
    assert [_fails(always) for _ in range(4)] == [False, True, True, True]


def _fails(store: FaultStore) -> bool:
    try:
        store.settle()
    except errors.StoreUnavailable:
        return True
    return False


@pytest.mark.parametrize(
    ("kind", "error"), [(Kind.SHORT, errors.SizeMismatch), (Kind.FLIP, errors.DigestMismatch)]
)
def test_bytes_that_are_spoilt_on_their_way_in_are_refused(
    store: BlobStore, kind: Kind, error: type[errors.Error]
) -> None:
    staging = FaultStore(store, Plan(Fault("stage", kind))).open_staging()
    with pytest.raises(error):
        stage(staging)
    put(staging)
    staging.close()


def test_bytes_are_spoilt_on_their_way_out(store: BlobStore) -> None:
    staging = store.open_staging()
    key = put(staging)
    staging.close()
    flipped = read(FaultStore(store, Plan(Fault("open", Kind.FLIP))), key)
    assert flipped != CONTENT
    assert flipped[1:] == CONTENT[1:]
    short = read(FaultStore(store, Plan(Fault("open", Kind.SHORT))), key)
    assert 0 < len(short) < len(CONTENT)
    assert CONTENT.startswith(short)


def test_listing_ends_early_or_fails_in_its_middle(store: BlobStore) -> None:
    staging = store.open_staging()
    keys = {put(staging, bytes([number])) for number in range(4)}
    staging.close()
    cut = FaultStore(store, Plan(Fault("walk", Kind.TRUNCATE)))
    assert len(list(cut.walk())) == 2
    assert {info.key for info in cut.walk()} == keys
    failing = FaultStore(store, Plan(Fault("walk", Kind.FAIL_MIDWAY))).walk()
    assert next(failing).key in keys
    with pytest.raises(errors.StoreUnavailable, match="middle"):
        list(failing)
