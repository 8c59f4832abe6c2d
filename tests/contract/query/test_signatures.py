"""Which images are signed: the same answer from a condition in SQL and from the list of signatures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import aliased

from regmeta import models
from regmeta.app import Writing
from regmeta.db import Database
from regmeta.ingest.tags import remove_tag
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.models.base import BigId, DigestType
from regmeta.oci import signatures
from regmeta.oci.digest import Digest
from regmeta.query import catalog
from regmeta.query.graph.signatures import Signature, SignatureTag, is_signature, is_signed, signatures_of
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.plans import plans, scans
from tests.support.registry import commit_one

COSIGN = "application/vnd.dev.cosign.artifact.sig.v1+json"
NOTATION = "application/vnd.cncf.notary.signature"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PREDICATE = "dev.sigstore.bundle.predicateType"

Put = Callable[..., Digest]


@pytest.fixture
def put(writing: Writing, builder: LayoutBuilder, layout: Path) -> Put:
    """Bring a manifest in, without a tag if none is said."""

    def run(descriptor: Json, tag: str | None = None, repository: str = "app") -> Digest:
        commit_one(writing, builder, descriptor, layout, repository, tag)
        return digest_of(descriptor)

    return run


def signed(database: Database, digest: Digest, repository: str = "app") -> list[Signature]:
    """Return the signatures of an image; that it is signed must be what SQL says."""
    manifest = aliased(models.Manifest)
    with database.read() as connection:
        of = catalog.repository_id(connection, repository)
        found = signatures_of(connection, of, digest)
        told = connection.execute(
            sa.select(is_signed(manifest)).where(manifest.repository_id == of, manifest.digest == digest)
        ).scalar()
    assert told is None or bool(told) == bool(found)
    return found


def test_each_form_of_signature_is_one_and_is_listed_as_what_it_is(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    images = [builder.image() for _ in range(5)]
    legacy, cosign, notation, bundle, bare = map(put, images)
    tag = signatures.cosign_tags(legacy)[0]
    made = [
        put(builder.image(), tag),
        put(builder.artifact(b"c", COSIGN, images[1])),
        put(builder.artifact(b"n", NOTATION, images[2])),
        put(builder.artifact(b"b", BUNDLE, images[3])),
    ]

    found = [signed(writing.database, digest) for digest in (legacy, cosign, notation, bundle)]

    assert [(each.kind, each.digest, each.tag, each.is_here) for [each] in found] == [
        ("cosign-tag", made[0], tag, True),
        ("cosign", made[1], None, True),
        ("notation", made[2], None, True),
        ("bundle", made[3], None, True),
    ]
    assert signed(writing.database, bare) == []


@pytest.mark.parametrize(
    ("predicate", "is_one"),
    [
        ("https://sigstore.dev/cosign/sign/v1", True),
        ("https://slsa.dev/provenance/v1", False),
        ("https://spdx.dev/Document", False),
        ("", False),
    ],
)
def test_bundle_that_attests_something_else_is_no_signature(
    writing: Writing, builder: LayoutBuilder, put: Put, predicate: str, is_one: bool
) -> None:
    image = builder.image()
    config = builder.blob(b"{}", "application/vnd.oci.empty.v1+json")
    subject = {key: image[key] for key in ("mediaType", "digest", "size")}
    bundle = builder.image([b"b"], config, {PREDICATE: predicate}, artifactType=BUNDLE, subject=subject)
    put(bundle)

    assert bool(signed(writing.database, put(image))) is is_one


def test_image_that_comes_after_its_signatures_is_signed_at_once(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    image = builder.image()
    digest = digest_of(image)
    put(builder.artifact(b"n", NOTATION, image))
    put(builder.image(), signatures.cosign_tags(digest)[0])

    assert len(signed(writing.database, digest)) == 2  # before it is here
    assert len(signed(writing.database, put(image))) == 2


def test_image_whose_only_signature_was_deleted_is_not_signed(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    image, other = builder.image(), builder.image()
    first, second = put(image, "v1"), put(other, "v2")
    artifact = put(builder.artifact(b"c", COSIGN, image))
    tag = signatures.cosign_tags(second)[0]
    put(builder.image(), tag)
    assert signed(writing.database, first)
    assert signed(writing.database, second)

    delete_manifest(writing.writer, "app", artifact)
    remove_tag(writing.writer, "app", tag)

    assert signed(writing.database, first) == []
    assert signed(writing.database, second) == []


def test_image_that_is_signed_again_under_the_same_tag_has_one_current_signature(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    digest = put(builder.image(), "v1")
    tag = signatures.cosign_tags(digest)[0]
    put(builder.image(), tag)
    newer = put(builder.image(), tag)

    assert [each.digest for each in signed(writing.database, digest)] == [newer]


def test_signature_counts_in_its_own_repository_and_for_its_own_digest(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    child = builder.image()
    index = builder.index([child])
    put(index, "v1")
    put(child, "v1", repository="other")
    put(builder.artifact(b"c", COSIGN, index))

    assert signed(writing.database, digest_of(index))
    assert signed(writing.database, digest_of(child)) == []
    assert signed(writing.database, digest_of(child), "other") == []


def test_signature_that_has_the_tag_and_names_its_subject_is_listed_once(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    image = builder.image()
    digest = put(image, "v1")
    tag = signatures.cosign_tags(digest)[0]
    put(builder.artifact(b"c", COSIGN, image), tag)

    assert [(each.kind, each.tag) for each in signed(writing.database, digest)] == [("cosign", tag)]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_tag_of_a_signature_is_the_same_from_sql(database: Database, algorithm: str) -> None:
    digest = Digest.of(b"x", algorithm)
    with database.read() as connection:
        made = connection.execute(sa.select(SignatureTag(sa.literal(digest, DigestType())))).scalar_one()
    assert made == signatures.cosign_tags(digest)[0]


KINDS = [
    *(signatures.COSIGN + end for end in (".v1+json", ".v12+json", ".v+json", ".v1", ".v1+jsonx", "")),
    *(signatures.COSIGN + end for end in (".vx+json", ".v1.0+json", ".V1+json", ".v1+json;a=b")),
    *(signatures.BUNDLE + end for end in ("+json", ".v0.3+json", ".v+json", ".v.+json", "", ".v0.3")),
    *(signatures.BUNDLE + end for end in ("+json;version=0.1", "+json; version=0.1", "+json;version=")),
    *(signatures.BUNDLE + end for end in ("+json;", "+json;version=x", ".v1+json;version=1", "+jsonx")),
    *(signatures.BUNDLE + end for end in ("+json;\tversion=0.1", "+json;VERSION=1", "+json;version=1 ")),
    *(signatures.NOTATION + end for end in ("", "s")),
    signatures.NOTATION.upper(),
    signatures.COSIGN.upper() + ".v1+json",
    "",
    None,
]


def test_sql_and_the_domain_agree_on_what_a_signature_is(database: Database) -> None:
    with database.read() as connection:
        for kind in KINDS:
            row = sa.select(
                sa.literal(1, BigId).label("id"), sa.cast(sa.literal(kind), sa.Text).label("artifact_type")
            ).subquery()
            manifest: Any = aliased(models.Manifest, row, adapt_on_names=True)
            told = connection.execute(
                sa.select(sa.literal(1)).select_from(row).where(is_signature(manifest))
            ).scalar()
            assert (told is not None) is (signatures.form_of(kind, None) is not None), kind


def test_whether_an_image_is_signed_is_looked_up_in_indexes(database: Database) -> None:
    statement = sa.select(models.Manifest.id).where(
        models.Manifest.repository_id == 1,
        models.Manifest.digest == Digest.of(b"x"),
        is_signed(models.Manifest),
    )

    def ask() -> None:
        with database.read() as connection:
            connection.execute(statement).all()
            signatures_of(connection, 1, Digest.of(b"x"))

    for plan in plans(database, ask):
        assert scans(plan) == [], plan
        assert "hashed" not in plan, plan
