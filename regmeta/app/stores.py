"""Which blob store the settings name: a folder or a bucket."""

from __future__ import annotations

from pathlib import Path

from regmeta.errors import UsageError
from regmeta.settings import Settings, duration
from regmeta.settings.object_store import is_bucket
from regmeta.store import BlobStore


def open_store(settings: Settings) -> BlobStore:
    """Open the store that the settings name.

    Raises:
        StoreUnavailable: there is no such folder, or no client can be made for the bucket.
        UsageError: it is a bucket, and what reaches buckets is not installed.
    """
    if not is_bucket(settings.store):
        from regmeta.store.filesystem import FilesystemStore

        return FilesystemStore(settings.store)
    try:
        from regmeta.store.bucket import BucketStore
        from regmeta.store.bucket_options import MIB, BucketOptions
    except ImportError as error:
        raise UsageError(f"{settings.store}: {error}: pip install 'regmeta[s3]'") from error
    given = settings.object_store
    options = BucketOptions(
        endpoint=given.endpoint,
        region=given.region,
        virtual_hosted=given.virtual_hosted,
        part_bytes=given.part_mib * MIB,
        parts_at_once=given.parts_at_once,
        requests_at_once=given.requests_at_once,
        retry_for=duration(given.retry_for),
        read_timeout=duration(given.read_timeout),
        conditional_put=given.conditional_put,
        checksums=given.checksums,
    )
    return BucketStore(settings.store, scratch_folder(settings), options)


def scratch_folder(settings: Settings) -> str:
    """Return where this machine keeps what a store in a bucket needs beside it."""
    return settings.object_store.scratch or str(Path(settings.home, "scratch"))


def make_store_folder(settings: Settings) -> None:
    """Make the folder that a store lies in; a bucket is made by who owns it.

    Raises:
        StoreUnavailable: it cannot be made.
    """
    from regmeta.store.folders import make_folder

    if not is_bucket(settings.store):
        make_folder(settings.store)
