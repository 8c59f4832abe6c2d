"""What the queries are asked about: drawn from a synthetic registry, the same each time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.queries.raw import Raw
from regmeta.oci.digest import Digest

POOL: Final = 300


@dataclass(frozen=True, slots=True)
class Tagged:
    """A live tag and what it points at."""

    repository: str
    tag: str
    digest: Digest
    repository_id: int
    manifest_id: int
    kind: str


class Parameters:
    """Draws from pools; pools are filled from the database once."""

    def __init__(self, raw: Raw, seed: int = 0, pool: int = POOL) -> None:
        self._raw, self._size = raw, pool
        self._rng = random.Random(f"parameters/{seed}")
        self.tags = self._pool(self._a_tag, "tags")
        self.images = self._pool(self._an_image, "manifests")
        self.blobs = self._pool(self._a_blob, "blobs")
        self.repositories = self._pool(self._a_repository, "repositories")
        self.signed = self._pool(self._a_subject, "manifests")
        self.bases = self._bases()
        self.shared = self._shared()
        # Always the one with the very many tags: the first, since others are as big.
        self.busy: str = raw.value("SELECT min(name) FROM repositories WHERE name LIKE '%%-nightly'")
        words = {word for name in self.repositories for word in name.replace("/", "-").split("-")}
        self.words = sorted(word for word in words if len(word) > 2)
        self.users = [f"user-{number:03d}" for number in range(1000)]

    def one_of(self, pool: list[Any]) -> Any:
        """Return one entry of a pool."""
        return self._rng.choice(pool)

    def between(self, first: int, last: int) -> int:
        """Return a number, both ends included."""
        return self._rng.randint(first, last)

    def _pool(self, draw: Callable[[int], Any], table: str) -> list[Any]:
        last = self._raw.value(f"SELECT max(id) FROM {table}")
        found: list[Any] = []
        for _ in range(50 * self._size):
            drawn = draw(self._rng.randint(1, last))
            if drawn is not None:
                found.append(drawn)
            if len(found) == self._size:
                break
        return found

    def _a_tag(self, number: int) -> Tagged | None:
        rows = self._raw.rows(
            "SELECT r.name, t.name, t.manifest_digest, r.id, m.id, m.kind FROM tags t"
            " JOIN repositories r ON r.id = t.repository_id JOIN manifests m ON m.id = t.manifest_id"
            " WHERE t.id = ? AND t.ended_at IS NULL",
            number,
        )
        if not rows:
            return None
        repository, name, digest, *rest = rows[0]
        return Tagged(repository, name, Digest.from_bytes(digest), *rest)

    def _an_image(self, number: int) -> Tagged | None:
        rows = self._raw.rows(
            "SELECT r.name, m.digest, r.id, m.id, m.kind FROM manifests m"
            " JOIN repositories r ON r.id = m.repository_id"
            " WHERE m.id = ? AND m.kind = 'image' AND m.architecture IS NOT NULL",
            number,
        )
        if not rows:
            return None
        repository, digest, *rest = rows[0]
        return Tagged(repository, "", Digest.from_bytes(digest), *rest)

    def _a_subject(self, number: int) -> tuple[str, Digest, int] | None:
        rows = self._raw.rows(
            "SELECT r.name, m.subject_digest, r.id FROM manifests m JOIN repositories r"
            " ON r.id = m.repository_id WHERE m.id = ? AND m.subject_digest IS NOT NULL",
            number,
        )
        return (rows[0][0], Digest.from_bytes(rows[0][1]), rows[0][2]) if rows else None

    def _a_blob(self, number: int) -> Digest | None:
        rows = self._raw.rows("SELECT digest FROM blobs WHERE id = ?", number)
        return Digest.from_bytes(rows[0][0]) if rows else None

    def _a_repository(self, number: int) -> str | None:
        rows = self._raw.rows("SELECT name FROM repositories WHERE id = ?", number)
        return str(rows[0][0]) if rows else None

    def _bases(self) -> list[Tagged]:
        rows = self._raw.rows(
            "SELECT r.name, m.digest, r.id, m.id, m.kind FROM repositories r"
            " JOIN manifests m ON m.repository_id = r.id"
            " WHERE r.id <= 10 AND m.architecture IS NOT NULL ORDER BY m.id"
        )
        return [Tagged(row[0], "", Digest.from_bytes(row[1]), *row[2:]) for row in rows]

    def _shared(self) -> list[Digest]:
        rows = self._raw.rows(
            "SELECT b.digest FROM blobs b JOIN manifest_blobs e ON e.blob_id = b.id"
            " JOIN manifests m ON m.id = e.manifest_id"
            " WHERE m.repository_id <= 10 AND e.role = 'layer' ORDER BY b.id"
        )
        return [Digest.from_bytes(row[0]) for row in rows]
