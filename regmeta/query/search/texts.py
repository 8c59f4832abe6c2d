"""What labels and annotations say: from texts to the images that carry them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from regmeta.models import IndexMember, Label, LabelText, Manifest, Repository, Tag
from regmeta.oci.folding import folded, text_key
from regmeta.query.search.found import CANDIDATES, Found, TextHit, considered, first, match_of
from regmeta.query.search.live import is_live_text
from regmeta.query.search.patterns import Way, has_trigram, holding, parameters_of, way_to
from regmeta.query.stored import digest_or_none, raw_digest
from regmeta.query.visibility import Visibility, seen

IMAGES: Final = 50
"""How many manifests that say the same text are looked at: the newest ones."""
AROUND: Final = 40  # [characters] of a value that are shown before and behind what was looked for
_TEXTS_AT_ONCE: Final = 8
_FIRST_TEXTS: Final = 24  # as a rule they are enough

_EXACT: Final = sa.select(LabelText.id, LabelText.folded).where(
    LabelText.id == sa.bindparam("of"), LabelText.folded == sa.bindparam("term")
)
_SAYING: Final = (
    sa.select(
        Label.text_key,
        Label.manifest_id,
        Label.name.label("label"),
        Label.origin,
        Manifest.repository_id,
        Repository.name.label("repository"),
        raw_digest(Manifest.digest).label("digest"),
    )
    .join(Manifest, Manifest.id == Label.manifest_id)
    .join(Repository, Repository.id == Manifest.repository_id)
    .where(Manifest.deleted_at.is_(None), Repository.state == "active")
    .order_by(Label.manifest_id.desc())
    .limit(IMAGES + 1)
)
_VALUES: Final = sa.select(Label.manifest_id, Label.origin, Label.name, Label.value).where(
    Label.manifest_id.in_(sa.bindparam("ids", expanding=True)),
    Label.text_key.in_(sa.bindparam("keys", expanding=True)),
)
_OWN_TAGS: Final = (
    sa.select(Tag.manifest_id, Tag.name, Tag.id)
    .where(Tag.manifest_id.in_(sa.bindparam("ids", expanding=True)), Tag.ended_at.is_(None))
    .limit(CANDIDATES)
)
_TAGS_OF_INDEXES: Final = (
    sa.select(IndexMember.child_id, Tag.name, Tag.id)
    .join(Tag, sa.and_(Tag.manifest_id == IndexMember.index_id, Tag.ended_at.is_(None)))
    .where(IndexMember.child_id.in_(sa.bindparam("ids", expanding=True)))
    .limit(CANDIDATES)
)


def find_texts(connection: Connection, term: str, limit: int, visible: Visibility | None) -> Found[TextHit]:
    """Return what labels say that holds a folded term: exact, prefix, substring, then by text and repository.

    A repository is found once for each text and name of a label, by its newest manifest.
    """
    if not has_trigram(term):
        return Found()
    # To ask of each text whether a live image says it doubles the time: for one who sees all, only
    # where those that none says left no place for others.
    for statement in (_holding, _live) if visible is None else (partial(_live_for, visible),):
        rows: dict[tuple[int, int, str], Any] = {}
        said: dict[int, str] = {}
        cut = are_too_many = False
        for texts, are_too_many in _texts(connection, term, considered(limit), statement):
            said |= texts
            found, left_out = _saying(connection, list(texts), visible)
            cut = cut or are_too_many or left_out
            for row in found:
                rows.setdefault((row.text_key, row.repository_id, row.label), row)
            if len(rows) > limit:
                break
        if len(rows) > limit or not are_too_many:
            break
    return first(_hits(connection, term, said, list(rows.values())[: limit + 1]), limit, cut=cut)


def _texts(
    connection: Connection, term: str, at_most: int, statement_of: Callable[[Way], sa.Select[Any]]
) -> Iterator[tuple[dict[int, str], bool]]:
    """Give texts that hold the term by their keys, a few at a time, and whether there are too many.

    The best come first, and the text that is the term itself whatever is cut.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    of = parameters_of(term, at_most, is_sqlite=is_sqlite)
    statement = statement_of(way_to(connection, LabelText, term, at_most))
    rows: Any = connection.execute(statement, {**of, "page": _FIRST_TEXTS}).all()
    are_too_many = bool(rows) and rows[0].candidates >= at_most
    if are_too_many:
        exact: Any = connection.execute(_EXACT, {"of": text_key(term), "term": term}).all()
        if exact:
            yield {row.id: row.folded for row in exact}, are_too_many
    for start in range(0, at_most, _TEXTS_AT_ONCE):
        if start == len(rows) == _FIRST_TEXTS:
            rows = connection.execute(statement, {**of, "page": at_most}).all()
        some = rows[start : start + _TEXTS_AT_ONCE]
        if not some:
            return
        yield {row.id: row.folded for row in some}, are_too_many


def _saying(
    connection: Connection, keys: Sequence[int], visible: Visibility | None
) -> tuple[list[Any], bool]:
    """Return the labels with these texts: in the order of the texts, by repository, label, newest first."""
    is_sqlite = connection.dialect.name == "sqlite"
    statement = _each(is_sqlite) if visible is None else _made_for(is_sqlite, visible)
    parameters: dict[str, Any] = {"keys": list(keys)}
    if is_sqlite:
        padded = [*keys, *[None] * (_TEXTS_AT_ONCE - len(keys))]
        parameters = {f"key_{number}": key for number, key in enumerate(padded)}
    found: dict[int, list[Any]] = {key: [] for key in keys}
    for row in connection.execute(statement, parameters).all():
        found[row.text_key].append(row)
    rows = []
    for some in found.values():
        some.sort(key=lambda row: (-row.manifest_id, row.origin))  # an annotation before a label
        rows += sorted(some[:IMAGES], key=lambda row: (str(row.repository), str(row.label)))
    return rows, any(len(some) > IMAGES for some in found.values())


@lru_cache(maxsize=2)
def _each(is_sqlite: bool) -> sa.Select[Any]:
    return _made_for(is_sqlite, None)


def _made_for(is_sqlite: bool, visible: Visibility | None) -> sa.Select[Any]:
    """Return the statement that reads some labels of each of a few texts, however many others have."""
    saying = seen(_SAYING, visible)
    if not is_sqlite:
        keys = sa.select(LabelText.id).where(LabelText.id.in_(sa.bindparam("keys", expanding=True)))
        texts = keys.subquery()
        each = saying.where(Label.text_key == texts.c.id).lateral()
        return sa.select(each).select_from(sa.join(texts, each, sa.true()))
    bound = (sa.bindparam(f"key_{number}", type_=sa.BigInteger()) for number in range(_TEXTS_AT_ONCE))
    parts = [sa.select(saying.where(Label.text_key == key).subquery()) for key in bound]
    return sa.select(sa.union_all(*parts).subquery())


@lru_cache(maxsize=3)
def _holding(way: Way) -> sa.Select[Any]:
    return holding(sa.select(LabelText.id, LabelText.folded), LabelText, way)


@lru_cache(maxsize=3)
def _live(way: Way) -> sa.Select[Any]:
    return _live_for(None, way)


def _live_for(visible: Visibility | None, way: Way) -> sa.Select[Any]:
    columns = sa.select(LabelText.id, LabelText.folded)
    return holding(columns, LabelText, way, lambda of: is_live_text(of, visible))


# --- how a hit looks ----------------------------------------------------------------------------


def _hits(connection: Connection, term: str, texts: dict[int, str], rows: list[Any]) -> list[TextHit]:
    if not rows:
        return []
    ids = sorted({row.manifest_id for row in rows})
    of = {"ids": ids, "keys": sorted({row.text_key for row in rows})}
    values: dict[Any, str] = {}
    found: Any
    for found in connection.execute(_VALUES, of):
        values[found.manifest_id, found.origin, found.name] = found.value
    tags = _newest_tags(connection, ids)
    return [
        TextHit(
            row.repository,
            digest_or_none(row.digest),
            tags.get(row.manifest_id),
            row.label,
            row.origin,
            *snippet(values.get((row.manifest_id, row.origin, row.label), ""), term),
            match_of(texts[row.text_key], term),
        )
        for row in rows
    ]


def _newest_tags(connection: Connection, ids: Sequence[int]) -> dict[int, str]:
    """Return the newest tag of each manifest, or of an index that lists it; those without are left out."""
    tags: dict[int, str] = {}
    for statement in (_OWN_TAGS, _TAGS_OF_INDEXES):
        wanted = [number for number in ids if number not in tags]
        found: Any = connection.execute(statement, {"ids": wanted}).all() if wanted else []
        newest = sorted((tuple(row) for row in found), key=lambda row: int(row[2]))
        tags |= {manifest_id: name for manifest_id, name, _ in newest}
    return tags


def snippet(value: str, term: str) -> tuple[str, int, int]:
    """Return a piece of a value around a folded term, and where in it the term is."""
    start = folded(value).find(term)
    # Folding may have made it longer or shorter: then the place of the term is not known letter by letter.
    if start < 0 or len(folded(value[:start])) != start or folded(value[start : start + len(term)]) != term:
        piece = value[: 2 * AROUND + len(term)]
        return piece + ("…" if len(piece) < len(value) else ""), 0, 0
    low, high = max(0, start - AROUND), start + len(term) + AROUND
    before = "…" if low else ""
    piece = before + value[low:high] + ("…" if high < len(value) else "")
    at = start - low + len(before)
    return piece, at, at + len(term)
