"""How the bucket of an old registry is reached: as the store's is, or as the environment says of it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from regmeta.errors import UsageError
from regmeta.object_storage.reach import Keys, Reach
from regmeta.settings import load_settings
from regmeta.settings.object_store import ObjectStore
from regmeta.settings.source_bucket import VARIABLES, source_reach

STORE = ObjectStore(endpoint="http://new:9000", region="eu", virtual_hosted=True, retry_for="5s")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_bucket_is_reached_as_the_stores_is() -> None:
    assert source_reach(STORE) == Reach(
        endpoint="http://new:9000", region="eu", virtual_hosted=True, retry_for=timedelta(seconds=5)
    )


def test_environment_names_another_server_and_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("http://old:9000", "us", "ada", "hush", "token"), strict=True):
        monkeypatch.setenv(name, value)

    found = source_reach(STORE)

    assert (found.endpoint, found.region) == ("http://old:9000", "us")
    assert found.keys == Keys("ada", "hush", "token")
    assert load_settings(home="/nowhere").home == "/nowhere"  # they are no settings, and no unknown ones


@pytest.mark.parametrize("name", VARIABLES[2:])
def test_one_key_without_the_other_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hush")
    with pytest.raises(UsageError, match="set both or neither") as refused:
        source_reach(STORE)
    assert "hush" not in str(refused.value)


def test_endpoint_that_is_none_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES[0], "http://ada:hush@old")
    with pytest.raises(UsageError, match=VARIABLES[0]) as refused:
        source_reach(STORE)
    assert "hush" not in str(refused.value)


def test_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGMETA_ADOPT_REGON", "eu")
    with pytest.raises(UsageError, match="adopt_regon"):
        load_settings(home="/nowhere")
