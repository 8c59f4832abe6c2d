"""A bucket looked at from outside, as files: a copy of what lies below its prefix in a folder.

By plain requests of ``botocore``: unlike the client of the store it may be used before a process forks.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_clients: dict[tuple[int, str], Any] = {}  # by process: a connection is not shared by two
_AT_ONCE: Final = 8


class BucketFiles:
    """What lies below the prefix of a store's URL."""

    def __init__(self, url: str) -> None:
        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Return the names of all objects below a folder, with their sizes."""
        pages = _client().get_paginator("list_objects_v2")
        found = {}
        for page in pages.paginate(Bucket=self._bucket, Prefix=f"{self._prefix}{folder}"):
            for each in page.get("Contents", ()):
                found[each["Key"].removeprefix(self._prefix)] = int(each["Size"])
        return found

    def read(self, name: str) -> bytes:
        """Return the content of an object."""
        return bytes(_client().get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read())

    def read_if_there(self, name: str) -> bytes | None:
        """Return the content of an object, None if there is none."""
        try:
            return self.read(name)
        except _client().exceptions.NoSuchKey:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write an object behind the store's back."""
        _client().put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content)

    def remove(self, *names: str) -> None:
        """Remove objects behind the store's back."""
        for name in names:
            _client().delete_object(Bucket=self._bucket, Key=self._prefix + name)

    def clear(self) -> None:
        """Remove everything below the prefix, unfinished uploads too."""
        self.remove(*self.sizes())
        for name, upload_id in self.uploads():
            _client().abort_multipart_upload(Bucket=self._bucket, Key=self._prefix + name, UploadId=upload_id)

    def uploads(self) -> list[tuple[str, str]]:
        """Return the uploads that are not finished: (name, id)."""
        found = _client().list_multipart_uploads(Bucket=self._bucket, Prefix=self._prefix)
        return [
            (each["Key"].removeprefix(self._prefix), each["UploadId"]) for each in found.get("Uploads", ())
        ]

    def begin_upload(self, name: str, content: bytes) -> None:
        """Begin an upload and send a part of it, as a process does that dies before its end."""
        at = {"Bucket": self._bucket, "Key": self._prefix + name}
        upload_id = _client().create_multipart_upload(**at)["UploadId"]
        _client().upload_part(**at, UploadId=upload_id, PartNumber=1, Body=content)

    def copy_to(self, other: BucketFiles) -> None:
        """Copy everything to another prefix of the same server; of uploads only that there are some."""
        for name in self.sizes():
            other.write(name, self.read(name))
        for name, _ in self.uploads():
            other.begin_upload(name, b"a part")

    def download(self, folder: Path, *, objects: bool = True) -> None:
        """Write everything into a folder, read-only as a store's objects are; marks of buckets stay out."""
        names = [
            name
            for name in self.sizes()
            if not name.startswith("staging/")
            and name != "blobs/z_store"
            and (objects or not name.startswith("blobs/"))
        ]
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        client = _client()

        def fetch(name: str) -> None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            answer = client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            path.write_bytes(answer["Body"].read())
            path.chmod(0o444)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(fetch, names))


def is_bucket(location: str) -> bool:
    """Tell whether a store's location is a bucket."""
    return "://" in location


@contextmanager
def as_folder(location: str, scratch: str = "") -> Iterator[Path]:
    """Give a store as a folder: itself, or a copy of a bucket for as long as the block runs.

    *scratch* is where its processes' staging folders are.
    """
    if not is_bucket(location):
        yield Path(location)
        return
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="regmeta-bucket-", dir=memory))
    try:
        BucketFiles(location).download(folder)
        if scratch and Path(scratch, "staging").is_dir():
            (folder / "staging").symlink_to(Path(scratch, "staging"))
        yield folder
    finally:
        shutil.rmtree(folder)


def _client() -> Any:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    found = _clients.get((os.getpid(), endpoint))
    if found is None:
        import botocore.config
        import botocore.session

        config = botocore.config.Config(
            s3={"addressing_style": "path"},
            max_pool_connections=_AT_ONCE,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        found = botocore.session.get_session().create_client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", config=config
        )
        _clients[os.getpid(), endpoint] = found
    return found
