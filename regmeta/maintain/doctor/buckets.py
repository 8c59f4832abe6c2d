"""A store in a bucket: does it answer, and who says that he works on it."""

from __future__ import annotations

from collections.abc import Iterator

from regmeta.maintain.doctor.check import Check, ok, problem
from regmeta.maintain.doctor.files import check_file_system, check_permissions
from regmeta.oci.digest import Digest
from regmeta.store import BlobStore, new_key
from regmeta.store.health import PathFacts


def check_bucket(store: BlobStore) -> Iterator[Check]:
    """Ask a bucket whether it is this store's, with a request of each kind that reads.

    Raises:
        StoreUnavailable: it does not answer, or refuses, or holds no store.
    """
    store.stat(new_key(Digest.of(b"")))
    yield ok("store", f"{store.location} answers")
    owners = {name.split("/")[1] for name in store.walk_records("staging") if name.count("/") > 1}
    # Those of machines that are no more stay, and only a person knows that they are.
    yield ok("processes", f"{len(owners)} have a sign in {store.location}/staging")


def check_scratch(path: str, facts: PathFacts | None, user_id: int) -> Iterator[Check]:
    """Look at this machine's folder of locks and temporary files; it is made with the first writer."""
    if facts is None:
        yield ok("scratch", f"{path}: not made yet")
    elif facts.kind != "folder":
        yield problem("scratch", f"{path}: not a folder", "correct 'object_store.scratch' in the settings")
    else:
        yield from check_permissions("scratch", facts, user_id)
        yield from check_file_system("scratch", facts)
