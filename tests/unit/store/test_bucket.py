"""What only a bucket has: requests that fail, are lost, or come late; uploads in parts; URLs."""

from __future__ import annotations

import io
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore, S3Store

from regmeta import errors
from regmeta.object_storage.reach import without_secrets
from regmeta.oci.digest import Digest
from regmeta.store import BlobStore, ObjectMissing, Staging, new_key
from regmeta.store.bucket import MARKER, BucketStore
from regmeta.store.bucket_options import MIB, BucketOptions
from regmeta.store.s3 import Bucket
from regmeta.store.s3_parts import PartsUpload, S3Requests, bytes_of_part
from tests.support.s3_proxy import Kind, S3Proxy
from tests.support.seaweed import Buckets
from tests.support.seaweed_server import SECRET_KEY
from tests.unit.store.objects import CONTENT, DIGEST, put, read, stage

PART = 5 * MIB
LARGE = os.urandom(PART) * 2 + b"the end"
QUICK = {"retry_for": timedelta(seconds=3), "read_timeout": timedelta(seconds=2)}
Open = Callable[..., BucketStore]


@pytest.fixture
def proxy(buckets: Buckets) -> Iterator[S3Proxy]:
    """What stands between the stores of a test and the server."""
    with S3Proxy(buckets.endpoint) as found:
        yield found


@pytest.fixture
def url(buckets: Buckets) -> str:
    return buckets.url()


@pytest.fixture
def open_store(proxy: S3Proxy, url: str, tmp_path: Path) -> Iterator[Open]:
    """Open the store, with options that are not the usual ones."""
    opened: list[BucketStore] = []

    def make(location: str = url, **options: Any) -> BucketStore:
        given: dict[str, Any] = {"endpoint": proxy.endpoint, "part_bytes": PART, **QUICK, **options}
        store = BucketStore(location, str(tmp_path / "scratch"), BucketOptions(**given))
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Open) -> BucketStore:
    """An empty store."""
    found = open_store()
    found.create()
    return found


@pytest.fixture
def staging(store: BucketStore, proxy: S3Proxy) -> Iterator[Staging]:
    found = store.open_staging()
    yield found
    proxy.faults.clear()
    found.close()


def put_large(staging: Staging, content: bytes = LARGE) -> str:
    return put(staging, content)


def uploads_of(store: BucketStore) -> list[str]:
    """Return the names of the uploads that nobody has finished."""
    return [each.name for each in S3Requests(store.location, store._options).unfinished("blobs")]


# --- never "absent" ---------------------------------------------------------------------------

ASKING: dict[str, Callable[[BlobStore, str], object]] = {
    "stat": lambda store, key: store.stat(key),
    "open": lambda store, key: read(store, key),
    "open at": lambda store, key: read(store, key, 5),
    "walk": lambda store, key: list(store.walk()),
    "read record": lambda store, key: store.read_record("layouts/app/x"),
    "list records": lambda store, key: store.list_records("layouts/app"),
    "walk records": lambda store, key: list(store.walk_records("layouts")),
    "delete": lambda store, key: store.delete([key]),
    "delete record": lambda store, key: store.delete_record("layouts/app/x"),
    "abort uploads": lambda store, key: store.abort_uploads(0),
    "create": lambda store, key: store.create(),
}
asking = pytest.mark.parametrize("call", ASKING.values(), ids=ASKING.keys())


@asking
@pytest.mark.parametrize(
    ("kind", "status"),
    [(Kind.STATUS, 403), (Kind.STATUS, 500), (Kind.STATUS, 503), (Kind.DROP_BEFORE, 0)],
    ids=["403", "500", "503", "no answer"],
)
def test_server_that_fails_is_never_read_as_absent(
    open_store: Open,
    store: BucketStore,
    staging: Staging,
    proxy: S3Proxy,
    kind: Kind,
    status: int,
    call: Callable[[BlobStore, str], object],
) -> None:
    key = put(staging)
    impatient = open_store(retry_for=timedelta(seconds=0.3))
    for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        proxy.spoil(method, "", kind, times=10_000, status=status)
    with pytest.raises(errors.StoreUnavailable, match=re.escape(store.location)) as caught:
        call(impatient, key)
    assert not isinstance(caught.value, ObjectMissing)
    assert caught.value.exit_code == 5
    assert SECRET_KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


@asking
def test_bucket_that_is_not_there_is_never_read_as_empty(
    open_store: Open, call: Callable[[BlobStore, str], object]
) -> None:
    missing = open_store("s3://no-such-bucket/x", retry_for=timedelta(seconds=0.3))
    if call in (ASKING["create"], ASKING["abort uploads"]):
        pytest.skip("this server makes a bucket with its first object, and has no uploads in none")
    with pytest.raises(errors.StoreUnavailable):
        call(missing, new_key(DIGEST))


@pytest.mark.parametrize("name", ["stat", "open", "walk", "read record"])
def test_prefix_without_a_store_is_never_read_as_empty(open_store: Open, url: str, name: str) -> None:
    with pytest.raises(errors.StoreUnavailable, match=MARKER):
        ASKING[name](open_store(f"{url}-other"), new_key(DIGEST))


def test_delete_that_finds_no_bucket_is_an_error(
    store: BucketStore, staging: Staging, proxy: S3Proxy
) -> None:
    """S3 never says of an object that it was not there when it is deleted: 404 is said of the bucket."""
    key = put(staging)
    proxy.spoil("POST", "delete", Kind.STATUS, times=100, status=404)
    with pytest.raises(errors.StoreUnavailable, match="404"):
        store.delete([key])
    assert store.stat(key) is not None


@pytest.mark.parametrize("kind", [Kind.EMPTY_LIST, Kind.SHORT_LIST])
def test_listing_that_is_not_whole_raises(
    store: BucketStore, staging: Staging, proxy: S3Proxy, kind: Kind
) -> None:
    keys = {put(staging, bytes([number])) for number in range(4)}
    proxy.spoil("GET", "list-type=2", kind)
    with pytest.raises(errors.StoreUnavailable, match=MARKER):
        list(store.walk())
    assert {found.key for found in store.walk()} == keys


# --- what is tried again ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 503])
def test_server_that_fails_for_a_while_is_asked_again(
    store: BucketStore, staging: Staging, proxy: S3Proxy, status: int
) -> None:
    for method in ("GET", "HEAD", "PUT", "POST"):
        proxy.spoil(method, "", Kind.STATUS, times=2, status=status)
    small, large = put(staging), put_large(staging)
    assert read(store, small) == CONTENT
    assert read(store, large) == LARGE
    store.delete([small])
    assert [found.key for found in store.walk()] == [large]


def test_body_that_is_cut_off_is_read_on(store: BucketStore, staging: Staging, proxy: S3Proxy) -> None:
    key = put(staging, LARGE)
    fault = proxy.spoil("GET", "/blobs/", Kind.CUT_BODY)
    assert read(store, key) == LARGE
    assert fault.happened == 1
    proxy.spoil("GET", "/blobs/", Kind.CUT_BODY, times=10_000)
    with pytest.raises(errors.StoreUnavailable):
        read(store, key)


@pytest.mark.parametrize("kind", [Kind.DROP_BEFORE, Kind.DROP_AFTER, Kind.TWICE, Kind.FLIP])
@pytest.mark.parametrize("content", [CONTENT, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("conditional", [True, False], ids=["conditional", "unconditional"])
def test_own_object_is_never_taken_for_another(
    open_store: Open, store: BucketStore, proxy: S3Proxy, kind: Kind, content: bytes, conditional: bool
) -> None:
    """The answer is lost, or the request comes twice: its object is this writer's all the same."""
    writing = open_store(conditional_put=conditional)
    staging = writing.open_staging()
    fault = proxy.spoil("PUT", "/blobs/sha256", kind)
    try:
        key = put(staging, content)
    except errors.StoreUnavailable:
        assert kind is Kind.FLIP  # small objects are not sent again: their keys are not used again either
        key = put(staging, content)
    staging.close()
    assert fault.happened == 1
    assert read(store, key) == content
    assert [found.key for found in store.walk()] == [key]
    assert uploads_of(store) == []


@pytest.mark.parametrize("kind", [Kind.DROP_BEFORE, Kind.DROP_AFTER, Kind.TWICE])
def test_upload_is_finished_where_the_answer_was_lost(
    store: BucketStore, staging: Staging, proxy: S3Proxy, kind: Kind
) -> None:
    fault = proxy.spoil("POST", "uploadId=", kind)
    key = put_large(staging)
    assert fault.happened == 1
    assert read(store, key) == LARGE
    assert uploads_of(store) == []


def test_upload_that_the_server_has_forgotten_is_not_taken_for_finished(
    store: BucketStore, staging: Staging, url: str
) -> None:
    staged = stage(staging, LARGE)
    assert store.abort_uploads(0) == 1
    with pytest.raises(errors.StoreUnavailable):
        staging.publish([staged])
    assert store.stat(staged.key) is None


@pytest.mark.parametrize("status", [400, 501])
def test_server_that_does_not_know_conditions_is_written_to(
    store: BucketStore, staging: Staging, proxy: S3Proxy, status: int
) -> None:
    fault = proxy.spoil("PUT", "/blobs/sha256", Kind.STATUS, status=status)
    key = put(staging)
    assert (fault.happened, read(store, key)) == (1, CONTENT)


def test_key_is_never_overwritten_without_conditions(open_store: Open, store: BucketStore) -> None:
    staging = open_store(conditional_put=False).open_staging()
    key = put(staging, b"first")
    with pytest.raises(errors.StoreUnavailable, match="already"):
        staging.publish([stage(staging, b"second", key)])
    assert read(store, key) == b"first"
    staging.close()


def test_put_that_takes_effect_late_is_an_error_until_then(
    store: BucketStore, staging: Staging, proxy: S3Proxy
) -> None:
    proxy.spoil("PUT", "/blobs/sha256", Kind.LATE, times=10_000)
    staged = stage(staging)
    with pytest.raises(errors.StoreUnavailable):
        staging.publish([staged])
    proxy.faults.clear()
    assert store.stat(staged.key) is None
    assert proxy.release() > 0
    assert read(store, staged.key) == CONTENT
    store.delete([staged.key])
    assert store.stat(staged.key) is None


# --- uploads in parts ---------------------------------------------------------------------------


def test_spoilt_part_is_refused_and_nothing_is_left(
    store: BucketStore, staging: Staging, proxy: S3Proxy
) -> None:
    """The server compares each part with its checksum."""
    proxy.spoil("PUT", "partNumber=2", Kind.FLIP, times=10_000)
    with pytest.raises(errors.StoreUnavailable, match=r"BadDigest|Mismatch"):
        put_large(staging)
    assert list(store.walk()) == []
    assert uploads_of(store) == []


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (LARGE[:-1], errors.SizeMismatch),
        (LARGE + b"x", errors.SizeMismatch),
        (LARGE[:-1] + b"x", errors.DigestMismatch),
    ],
    ids=["short", "long", "other bytes"],
)
def test_wrong_bytes_leave_no_upload(
    store: BucketStore, staging: Staging, content: bytes, error: type[errors.Error]
) -> None:
    digest = Digest.of(LARGE)
    with pytest.raises(error):
        staging.stage(new_key(digest), digest, len(LARGE), io.BytesIO(content))
    assert list(store.walk()) == []
    assert uploads_of(store) == []


def test_staged_parts_are_no_object_and_go_when_they_are_discarded(
    store: BucketStore, staging: Staging
) -> None:
    staged = stage(staging, LARGE)
    assert list(store.walk()) == []
    assert uploads_of(store) == [f"blobs/{staged.key}"]
    staging.discard([staged])
    staging.discard([staged])
    assert uploads_of(store) == []
    stage(staging, LARGE)
    staging.close()
    assert uploads_of(store) == []


def test_upload_is_given_up_by_age_only(store: BucketStore, staging: Staging) -> None:
    dead, alive = stage(staging, LARGE), stage(staging, LARGE[1:])
    assert store.abort_uploads(3600) == 0
    staging.publish([alive])
    assert store.abort_uploads(0) == 1
    assert uploads_of(store) == []
    assert [found.key for found in store.walk()] == [alive.key]
    staging.discard([dead])


def test_upload_of_a_registry_below_this_one_is_nobody_elses(
    open_store: Open, store: BucketStore, url: str
) -> None:
    below = open_store(f"{url}/blobs")
    below.create()
    with closing(below.open_staging()) as staging:
        staged = stage(staging, LARGE)
        assert store.abort_uploads(0) == 0
        staging.publish([staged])
    assert [found.key for found in below.walk()] == [staged.key]
    assert list(store.walk()) == []


def test_size_that_is_only_said_takes_no_memory(store: BucketStore) -> None:
    upload = store._bucket.begin_upload("blobs/x", 2**60)
    upload.write(memoryview(LARGE))
    assert isinstance(upload, PartsUpload)
    assert len(upload._filling) < PART
    upload.abort()


@pytest.mark.parametrize("size_bytes", [1, 70 * 2**30, 80 * 2**30, 5 * 2**40, 40 * 2**40])
def test_no_blob_has_more_parts_than_a_server_takes(size_bytes: int) -> None:
    assert sum(bytes_of_part(number, size_bytes, PART) for number in range(1, 10_001)) >= size_bytes


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
def test_both_clients_use_the_same_server_and_keys(
    buckets: Buckets, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What lies in ~/.aws is read by none of them."""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:9\n")
    (tmp_path / ".aws" / "credentials").write_text("[default]\naws_access_key_id = other\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_PROFILE", "none-such")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv(name, buckets.endpoint)
    options = BucketOptions(part_bytes=PART, **QUICK)  # type: ignore[arg-type]
    with closing(BucketStore(url, str(tmp_path / "scratch"), options)) as store:
        store.create()
        with closing(store.open_staging()) as staging:
            assert read(store, put_large(staging)) == LARGE


def test_many_uploads_that_wait_hold_no_byte_in_memory(
    open_store: Open, store: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all uploads together so many parts are under way, and none once an upload is staged."""
    writing = open_store(parts_at_once=2)
    staging = writing.open_staging()
    lock, now, most, send = threading.Lock(), [0, 0], [0, 0], S3Requests.send

    def counted(self: S3Requests, name: str, upload_id: str, number: int, content: bytes) -> Any:
        with lock:
            now[0], now[1] = now[0] + 1, now[1] + len(content)
            most[0], most[1] = max(most[0], now[0]), max(most[1], now[1])
        try:
            return send(self, name, upload_id, number, content)
        finally:
            with lock:
                now[0], now[1] = now[0] - 1, now[1] - len(content)

    monkeypatch.setattr(S3Requests, "send", counted)
    contents = [os.urandom(2 * PART + 1) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        staged = list(pool.map(lambda content: stage(staging, content), contents))
    assert (most[0], now) == (2, [0, 0])
    assert most[1] <= 2 * PART
    uploads = [each for each in staging._waiting.values() if isinstance(each, PartsUpload)]  # type: ignore[attr-defined]
    assert len(uploads) == 4
    assert not any(upload._filling for upload in uploads)
    staging.publish(staged)
    for item, content in zip(staged, contents, strict=True):
        assert read(store, item.key) == content
    staging.close()


def test_small_blobs_that_wait_take_bounded_memory(
    store: BucketStore, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regmeta.store.bucket_staging.IN_MEMORY_BYTES", 3000)
    contents = [os.urandom(1000) for _ in range(6)]
    staged = [stage(staging, content) for content in contents]
    waiting = list(staging._waiting.values())  # type: ignore[attr-defined]
    assert sum(len(each) for each in waiting if isinstance(each, bytearray)) == 3000
    staging.publish(staged)
    assert [read(store, item.key) for item in staged] == contents
    assert staging._in_memory_bytes == 0  # type: ignore[attr-defined]


def test_publish_that_fails_keeps_nothing_in_memory(
    store: BucketStore, staging: Staging, proxy: S3Proxy
) -> None:
    staged = [stage(staging), stage(staging, LARGE)]
    proxy.spoil("PUT", "/blobs/", Kind.STATUS, times=10_000, status=403)
    proxy.spoil("POST", "/blobs/", Kind.STATUS, times=10_000, status=403)
    with pytest.raises(errors.StoreUnavailable, match="AccessDenied"):
        staging.publish(staged)
    assert staging._in_memory_bytes == 0  # type: ignore[attr-defined]
    assert staging._waiting == {}  # type: ignore[attr-defined]
    assert uploads_of(store) == []


def test_other_clients_writer_keeps_no_buffer_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps what it is given until it is sent, and the buffer is filled again before."""
    inner = MemoryStore()
    monkeypatch.setattr(Bucket, "_client", lambda _: inner)
    with closing(Bucket("gs://of-another-kind", BucketOptions())) as bucket:
        buffer = memoryview(bytearray(4))
        upload = bucket.begin_upload("blobs/x", 8)
        for piece in (b"1234", b"5678"):
            buffer[:] = piece
            upload.write(buffer)
        upload.flush()
        bucket.finish(upload, "blobs/x", 8, "bucket.completed")
        assert bytes(obstore.get(inner, "blobs/x").bytes()) == b"12345678"
        given_up = bucket.begin_upload("blobs/y", 8)
        given_up.write(buffer)
        given_up.abort()
        given_up.abort()
        assert bucket.head("blobs/y") is None


# --- many, parts of one, URLs -----------------------------------------------------------------


def test_many_keys_are_deleted_a_thousand_at_once(
    open_store: Open, store: BucketStore, staging: Staging, proxy: S3Proxy
) -> None:
    last = put(staging)
    keys = [new_key(DIGEST) for _ in range(2499)]
    open_store(read_timeout=timedelta(seconds=60)).delete([*keys, last])
    assert len(proxy.requests("POST", "delete")) == 3
    assert store.stat(last) is None


def test_keys_are_looked_at_with_one_request_each_and_one_for_the_bucket(
    store: BucketStore, staging: Staging, proxy: S3Proxy
) -> None:
    here = put(staging)
    gone = [new_key(Digest.of(b"")) for _ in range(20)]
    before = len(proxy.requests("HEAD"))
    found = store.look([here, *gone])
    assert [found[key] for key in gone] == [None] * 20
    assert found[here] == store.stat(here)
    assert len(proxy.requests("HEAD")) - before == 21 + 1 + 1


def test_listing_goes_on_after_a_thousand(store: BucketStore, url: str, proxy: S3Proxy) -> None:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    raw = S3Store(bucket, prefix=prefix, client_options={"allow_http": True})
    keys = {new_key(DIGEST) for _ in range(1003)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: obstore.put(raw, f"blobs/{key}", b""), keys))
    assert {found.key for found in store.walk()} == keys
    assert len(proxy.requests("GET", "list-type=2")) == 2


def test_object_is_read_from_any_byte_on(store: BucketStore, staging: Staging, proxy: S3Proxy) -> None:
    key = put_large(staging)
    for start in (0, 1, PART - 1, PART, len(LARGE) - 1, len(LARGE), len(LARGE) + 5):
        assert read(store, key, start) == LARGE[start:]
    with pytest.raises(ObjectMissing):
        read(store, new_key(DIGEST), 5)


def test_signed_url_can_be_read_by_anybody_for_a_while(store: BucketStore, staging: Staging) -> None:
    key = put(staging)
    signed = store.signed_url(key, 2)
    with urllib.request.urlopen(signed) as answer:
        assert answer.read() == CONTENT
    time.sleep(2.5)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(signed)
    assert SECRET_KEY not in signed


# --- signs of processes -----------------------------------------------------------------------


def test_sign_of_a_process_stands_while_it_works(store: BucketStore, open_store: Open) -> None:
    staging = store.open_staging()
    [sign] = store.walk_records("staging")
    assert sign.startswith(f"staging/{staging.owner.hex}/")
    staging.close()
    assert list(store.walk_records("staging")) == []


def test_host_has_a_name_where_nothing_was_written_yet(open_store: Open, tmp_path: Path) -> None:
    store = open_store()
    assert not (tmp_path / "scratch").exists()
    assert store.host.endswith(".none")


def test_staging_that_cannot_be_signed_leaves_no_folder(
    open_store: Open, store: BucketStore, proxy: S3Proxy, tmp_path: Path
) -> None:
    proxy.spoil("PUT", "/staging/", Kind.STATUS, times=10_000, status=403)
    with pytest.raises(errors.StoreUnavailable, match="403"):
        store.open_staging()
    assert list((tmp_path / "scratch" / "staging").iterdir()) == []


def test_staging_that_cannot_be_cleared_is_left_to_the_next_process(
    store: BucketStore, open_store: Open, proxy: S3Proxy, tmp_path: Path
) -> None:
    staging = store.open_staging()
    proxy.spoil("POST", "delete", Kind.STATUS, times=10_000, status=403)
    staging.close()
    proxy.faults.clear()
    other = open_store()
    with other.abandoned_stagings() as found:
        assert list(found) == [staging.owner]
    assert list(store.walk_records("staging")) == []
    assert list((tmp_path / "scratch" / "staging").iterdir()) == []


# --- messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no answer of http://ann:secret@host:1/x", "no answer of http://host:1/x"),
        ("http://host/a@b and s3://x", "http://host/a@b and s3://x"),
        ("nothing", "nothing"),
    ],
)
def test_messages_have_no_secrets(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_server_that_stands_still_is_given_up_in_time(
    open_store: Open, store: BucketStore, proxy: S3Proxy
) -> None:
    proxy.spoil("HEAD", "", Kind.DELAY, times=10_000, seconds=5)
    impatient = open_store(retry_for=timedelta(seconds=1), read_timeout=timedelta(seconds=0.5))
    began_s = time.monotonic()
    with pytest.raises(errors.StoreUnavailable, match=re.escape(store.location)):
        impatient.stat(new_key(DIGEST))
    assert time.monotonic() - began_s < 60
