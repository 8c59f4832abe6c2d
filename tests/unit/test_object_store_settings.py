"""Settings of a store in a bucket: what is refused, and what paths are relative to."""

from __future__ import annotations

from pathlib import Path

import pytest

from regmeta.errors import StoreUnavailable, UsageError
from regmeta.settings import load_settings
from regmeta.settings.object_store import ObjectStore, check_object_store
from regmeta.store.bucket_options import BucketOptions
from regmeta.store.s3 import Bucket

NO_ENDPOINTS = [
    "https://",
    "http://[::1",
    "ftp://host",
    "http://host/a b",
    "http://user:secret@host",
    "host:1",
]


@pytest.mark.parametrize("endpoint", NO_ENDPOINTS)
def test_what_is_no_url_of_a_server_is_refused_before_it_is_used(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"object_store\.endpoint"):
        check_object_store("s3://bucket", ObjectStore(endpoint=endpoint))
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StoreUnavailable, match="no http") as refused:
        Bucket("s3://bucket", BucketOptions())
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "endpoint",
    ["http://localhost:8333", "https://s3.example.org/", "http://[::1]:9000", "http://minio_1:9000/a/b"],
)
def test_url_of_a_server_is_taken(endpoint: str) -> None:
    check_object_store("s3://bucket", ObjectStore(endpoint=endpoint))
    Bucket("s3://bucket", BucketOptions(endpoint=endpoint)).close()


def test_time_in_which_no_answer_can_come_is_refused() -> None:
    with pytest.raises(UsageError, match="read_timeout"):
        check_object_store("s3://bucket", ObjectStore(read_timeout="0s"))


def test_scratch_folder_is_the_same_from_wherever_a_command_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "regmeta.toml"
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    for written, meant in (("locks", tmp_path / "locks"), ("~/locks", tmp_path / "ada" / "locks")):
        config.write_text(f"[object_store]\nscratch = '{written}'\n")
        assert load_settings(config=str(config)).object_store.scratch == str(meant)
