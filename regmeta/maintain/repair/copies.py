"""Where good bytes of a damaged blob may be: its manifest's row, other objects, a given source."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.ingest.heal import Open
from regmeta.models import Manifest
from regmeta.oci.digest import Digest
from regmeta.sources import Source
from regmeta.store import BlobStore

_CONTENT: Final = sa.select(Manifest.content).where(Manifest.digest == sa.bindparam("of"))


class Copies:
    """Looks for copies of some digests. The store is listed once, when it is first asked for."""

    def __init__(
        self, database: Database, store: BlobStore, source: Source | None, wanted: Collection[Digest]
    ) -> None:
        self._database = database
        self._store = store
        self._source = source
        self._wanted = {f"{digest.algorithm}/{digest.hex[:2]}/{digest.hex}": digest for digest in wanted}
        self._keys: dict[Digest, list[str]] | None = None

    def of(self, digest: Digest, not_key: str | None) -> Mapping[str, Open]:
        """Return how each copy is opened, by what messages call it; none of them is verified yet."""
        found: dict[str, Open] = {}
        with self._database.read() as connection:
            contents: Any = connection.execute(_CONTENT, {"of": digest}).scalars().all()
        for number, content in enumerate(set(contents)):
            if digest.matches(content):
                found[f"the manifest's row {number or ''}".rstrip()] = _Bytes(content)
        if self._keys is None:
            self._keys = self._list()
        for key in self._keys.get(digest, ()):
            if key != not_key:
                found[key] = _Stored(self._store, key)
        if self._source is not None:
            found[self._source.location] = _Sourced(self._source, digest)
        return found

    def _list(self) -> dict[Digest, list[str]]:
        keys: dict[Digest, list[str]] = {}
        for info in self._store.walk():
            digest = self._wanted.get(info.key.rpartition(".")[0])
            if digest is not None:
                keys.setdefault(digest, []).append(info.key)
        return keys


class _Bytes:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __call__(self) -> Any:
        return io.BytesIO(self._content)


class _Stored:
    def __init__(self, store: BlobStore, key: str) -> None:
        self._store, self._key = store, key

    def __call__(self) -> Any:
        return self._store.open(self._key)


class _Sourced:
    def __init__(self, source: Source, digest: Digest) -> None:
        self._source, self._digest = source, digest

    def __call__(self) -> Any:
        return self._source.open(self._digest)
