"""No key and no name leads out of the store."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from regmeta.errors import StoreUnavailable
from regmeta.oci.digest import Digest
from regmeta.store import BlobStore, Staging, new_key
from regmeta.store.paths import checked_key, checked_name
from tests.unit.store.objects import only_folders

GOOD_KEY = new_key(Digest.of(b"x"))

BAD_NAMES = [
    "",
    ".",
    "..",
    "../store.json",
    "layouts/../../x",
    "layouts/..",
    "/etc/passwd",
    "layouts//x",
    "layouts/",
    "/layouts",
    ".hidden",
    "layouts/.hidden/x",
    "-x",
    "a\0b",
    "a\nb",
    "a\n",
    "a b",
    "a\\b",
    "caf\u00e9",
    "\uff0e\uff0e/x",
]
BAD_KEYS = [
    *BAD_NAMES,
    "store.json",
    GOOD_KEY.partition(".")[0],
    GOOD_KEY + "0",
    GOOD_KEY[:-1],
    GOOD_KEY.upper(),
    GOOD_KEY + "\n",
    "../" + GOOD_KEY,
    GOOD_KEY.replace("sha256", "sha512", 1),
    GOOD_KEY.replace("sha256", "md5", 1),
    GOOD_KEY.replace("/", "//", 1),
    "sha256/../" + GOOD_KEY.partition("/")[2],
    new_key(Digest.of(b"x")).replace("sha256/", "sha256/x", 1),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_hostile_record_name_is_refused(store: BlobStore, staging: Staging, name: str) -> None:
    for call in (
        lambda: checked_name(name),
        lambda: staging.write_record(name, b"x"),
        lambda: store.read_record(name),
        lambda: store.list_records(name),
        lambda: store.delete_record(name),
    ):
        with pytest.raises(StoreUnavailable, match="not a name"):
            call()


@pytest.mark.parametrize("key", BAD_KEYS)
def test_hostile_key_is_refused(store: BlobStore, staging: Staging, key: str) -> None:
    digest = Digest.of(b"x")
    for call in (
        lambda: checked_key(key),
        lambda: store.stat(key),
        lambda: store.open(key).__enter__(),
        lambda: store.delete([key]),
        lambda: staging.stage(key, digest, 1, io.BytesIO(b"x")),
    ):
        with pytest.raises(StoreUnavailable, match="not a key"):
            call()
    assert list(store.walk()) == []


def test_key_of_each_algorithm_is_taken() -> None:
    for algorithm in ("sha256", "sha512"):
        key = new_key(Digest.of(b"x", algorithm))
        assert checked_key(key) == key


def test_names_of_repositories_are_taken() -> None:
    for name in ("a", "a/b-c/d__e", "0/1.2", "layouts/a/_1-2.x.json"):
        assert checked_name(name) == name


@only_folders
def test_symbolic_link_in_the_place_of_a_record_is_not_followed(store: BlobStore, root: Path) -> None:
    (root / "store.json").symlink_to("/etc/passwd")
    with pytest.raises(StoreUnavailable):
        store.read_record("store.json")
    (root / "layouts").mkdir()
    (root / "layouts" / "_1.json").symlink_to("/etc/passwd")
    assert store.list_records("layouts") == []
