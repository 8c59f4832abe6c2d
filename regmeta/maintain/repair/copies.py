"""Where good bytes of a damaged blob may be: its manifest's row, other objects, a given source."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from typing import Any, Final

import sqlalchemy as sa

from regmeta.db import Database
from regmeta.ingest.heal import Copy
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
        self._keys: dict[Digest, dict[str, int]] | None = None

    def of(self, digest: Digest, own_key: str | None) -> Mapping[str, Copy]:
        """Return the copies, by what messages call them; none of them is verified yet.

        The object that was found bad comes last: it may have been away for a moment only.
        """
        found: dict[str, Copy] = {}
        with self._database.read() as connection:
            contents: Any = connection.execute(_CONTENT, {"of": digest}).scalars().all()
        for number, content in enumerate(set(contents)):
            if digest.matches(content):
                found[f"the manifest's row {number or ''}".rstrip()] = Copy(len(content), _Bytes(content))
        if self._keys is None:
            self._keys = self._list()
        keys = self._keys.get(digest, {})
        for key, size_bytes in keys.items():
            if key != own_key:
                found[key] = Copy(size_bytes, _Stored(self._store, key))
        if self._source is not None:
            found[self._source.location] = Copy(None, _Sourced(self._source, digest))
        if own_key is not None and own_key in keys:
            found[own_key] = Copy(keys[own_key], _Stored(self._store, own_key))
        return found

    def _list(self) -> dict[Digest, dict[str, int]]:
        keys: dict[Digest, dict[str, int]] = {}
        for info in self._store.walk():
            digest = self._wanted.get(info.key.rpartition(".")[0])
            if digest is not None:
                keys.setdefault(digest, {})[info.key] = info.size_bytes
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
