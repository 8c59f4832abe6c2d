"""Whether an image is signed, and by what; nothing is verified here.

Three forms name the image they sign as their subject: cosign's artifacts, notation's, and sigstore bundles
that are signatures. The fourth is a tag, ``sha256-<hex>.sig``, which is how cosign began. All count within
one repository and are looked for when somebody asks: so it does not matter which came first, the image or
its signature, and nothing is left over when a signature is deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import aliased
from sqlalchemy.sql.functions import FunctionElement

from regmeta import models
from regmeta.oci import signatures
from regmeta.oci.digest import Digest

Kind = Literal["cosign-tag", "cosign", "notation", "bundle"]
_DIGITS: Final = "0123456789"


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of an image: the manifest that signs it.

    ``tag`` is the tag by which cosign finds it, if it has that. ``is_here`` says that the bytes of its
    manifest can be read; those of a damaged one cannot.
    """

    kind: Kind
    digest: Digest
    tag: str | None
    pushed_at: datetime
    is_here: bool


class SignatureTag(FunctionElement[str]):
    """The tag that cosign gives to the signatures of a digest; NULL of a digest that no row should hold.

    It is computed in SQL, so that one statement can look for the signatures of many images.
    """

    name = "signature_tag"
    type = sa.Text()
    inherit_cache = True


@compiles(SignatureTag)
def _sqlite_tag(element: SignatureTag, compiler: Any, **options: Any) -> str:
    digest = compiler.process(element.clauses, **options)
    return (
        f"(CASE substr({digest}, 1, 1) WHEN x'01' THEN 'sha256-' WHEN x'02' THEN 'sha512-' END"
        f" || lower(hex(substr({digest}, 2))) || '{signatures.SIGNATURE_SUFFIX}')"
    )


@compiles(SignatureTag, "postgresql")
def _postgresql_tag(element: SignatureTag, compiler: Any, **options: Any) -> str:
    digest = compiler.process(element.clauses, **options)
    return (
        f"(CASE substring({digest} FROM 1 FOR 1) WHEN '\\x01'::bytea THEN 'sha256-'"
        f" WHEN '\\x02'::bytea THEN 'sha512-' END"
        f" || encode(substring({digest} FROM 2), 'hex') || '{signatures.SIGNATURE_SUFFIX}')"
    )


def is_signed(manifest: Any) -> sa.ColumnElement[bool]:
    """Return the condition that something in its repository signs a manifest.

    *manifest* is ``models.Manifest``, or an alias of it, of the statement that gets the condition. For each
    of its rows two indexes are looked up: that of live tags and that of subjects.
    """
    signing, tagged, tag = aliased(models.Manifest), aliased(models.Manifest), aliased(models.Tag)
    by_tag = _there_is(
        manifest,
        tag.repository_id == manifest.repository_id,
        tag.name == SignatureTag(manifest.digest),
        tag.ended_at.is_(None),
        tagged.id == tag.manifest_id,
        tagged.deleted_at.is_(None),
    )
    by_subject = _there_is(
        manifest,
        signing.repository_id == manifest.repository_id,
        signing.subject_digest == manifest.digest,
        signing.deleted_at.is_(None),
        is_signature(signing),
    )
    return sa.or_(by_tag, by_subject)


def is_signature(manifest: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a manifest with a subject signs it: :func:`signatures.form_of` in SQL.

    Both databases understand it; neither has the other's regular expressions.
    """
    said = aliased(models.Label)
    states_another = _there_is(
        manifest,
        said.manifest_id == manifest.id,
        said.origin == "annotation",
        said.name == signatures.PREDICATE,
        sa.func.substr(said.value, 1, len(signatures.SIGNS)) != signatures.SIGNS,
    )
    kind = manifest.artifact_type
    return sa.or_(
        kind == signatures.NOTATION,
        _is_cosign(kind),
        sa.and_(_is_bundle(kind), ~states_another),
    )


def _there_is(outer: Any, *conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Return the condition that some row fits one of *outer*; it is always looked up, row by row.

    Of an EXISTS below an OR, PostgreSQL may make a hash of all rows that there are.
    """
    found = sa.select(sa.literal_column("1", sa.Integer)).where(*conditions).limit(1).correlate(outer)
    return found.scalar_subquery().is_not(None)


def _is_cosign(kind: Any) -> sa.ColumnElement[bool]:
    begin = signatures.COSIGN + ".v"
    version = _after(kind, len(begin))
    return sa.and_(_begins(kind, begin), sa.func.ltrim(version, _DIGITS) == "+json", version != "+json")


def _is_bundle(kind: Any) -> sa.ColumnElement[bool]:
    rest = _after(kind, len(signatures.BUNDLE))
    versioned = sa.and_(_begins(rest, ".v"), ~_begins(rest, ".v+"))
    form = sa.case((versioned, sa.func.ltrim(_after(rest, 2), _DIGITS + ".")), else_=rest)
    version = sa.func.ltrim(_after(form, len("+json;")), " \t")
    number = _after(version, len("version="))
    return sa.and_(
        _begins(kind, signatures.BUNDLE),
        sa.or_(
            form == "+json",
            sa.and_(
                _begins(form, "+json;"),
                _begins(version, "version="),
                number != "",
                sa.func.ltrim(number, _DIGITS + ".") == "",
            ),
        ),
    )


def _begins(text: Any, begin: str) -> sa.ColumnElement[bool]:
    """Return the condition that a text begins so; LIKE would not mind the case on SQLite."""
    return sa.func.substr(text, 1, len(begin)) == begin


def _after(text: Any, length: int) -> Any:
    return sa.func.substr(text, length + 1)


_predicate = (
    sa.select(models.Label.value)
    .where(
        models.Label.manifest_id == models.Manifest.id,
        models.Label.origin == "annotation",
        models.Label.name == signatures.PREDICATE,
    )
    .scalar_subquery()
)
_of_subject: Final = sa.select(
    models.Manifest.digest,
    models.Manifest.artifact_type,
    _predicate.label("predicate"),
    models.Manifest.pushed_at,
    models.Blob.state,
).join(models.Blob, models.Blob.id == models.Manifest.blob_id)
_BY_SUBJECT: Final = _of_subject.where(
    models.Manifest.repository_id == sa.bindparam("of"),
    models.Manifest.subject_digest == sa.bindparam("subject"),
    models.Manifest.deleted_at.is_(None),
    is_signature(models.Manifest),
).order_by(models.Manifest.id)
_BY_TAG: Final = _of_subject.join(models.Tag, models.Tag.manifest_id == models.Manifest.id).where(
    models.Tag.repository_id == sa.bindparam("of"),
    models.Tag.name == sa.bindparam("tag"),
    models.Tag.ended_at.is_(None),
    models.Manifest.deleted_at.is_(None),
)


def signatures_of(connection: Connection, repository_id: int, digest: Digest) -> list[Signature]:
    """Return what signs an image in its repository: cosign's tag first, then as they came.

    One that has cosign's tag and also names its subject is listed once. Two statements.
    """
    tag = signatures.cosign_tags(digest)[0]
    tagged = connection.execute(_BY_TAG, {"of": repository_id, "tag": tag}).first()
    found: dict[Digest, Signature] = {}
    if tagged is not None:
        found[tagged[0]] = _signature(tagged, "cosign-tag", tag)
    for row in connection.execute(_BY_SUBJECT, {"of": repository_id, "subject": digest}):
        form = signatures.form_of(row.artifact_type, row.predicate)
        if form is not None:
            found[row.digest] = _signature(row, form, tag if row.digest in found else None)
    return list(found.values())


def _signature(row: Any, kind: Kind, tag: str | None) -> Signature:
    return Signature(kind, row.digest, tag, row.pushed_at, row.state == "live")
