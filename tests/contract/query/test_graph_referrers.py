"""What refers to a manifest: pages and trees, with and without the subject."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from regmeta.app import Writing
from regmeta.errors import NotFound, UsageError
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.oci.digest import Digest
from regmeta.query.graph.referrers import ReferrerNode, referrer_tree, referrers
from regmeta.query.visibility import UnderPrefixes
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.plans import plans, scans
from tests.support.registry import commit_one

SBOM, NOTATION = "application/spdx+json", "application/vnd.cncf.notary.signature"

Put = Callable[..., Digest]


@pytest.fixture
def put(writing: Writing, builder: LayoutBuilder, layout: Path) -> Put:
    """Bring a manifest in, without a tag if none is said."""

    def run(descriptor: Json, tag: str | None = None, repository: str = "app") -> Digest:
        commit_one(writing, builder, descriptor, layout, repository, tag)
        return digest_of(descriptor)

    return run


def subject_of(descriptor: Json) -> Json:
    return {key: descriptor[key] for key in ("mediaType", "digest", "size")}


def test_referrers_are_listed_before_and_after_their_subject_comes(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    image = builder.image()
    signature = builder.artifact(b"n", NOTATION, image)
    index = builder.index([], {"note": "all"}, artifactType=SBOM, subject=subject_of(image))
    by_config = builder.image(annotations={"a": "1", "b": "2"}, subject=subject_of(image))
    made = [put(signature), put(index), put(by_config)]

    before = referrers(writing.database, "app", digest_of(image), total=True)
    put(image, "v1")
    after = referrers(writing.database, "app", digest_of(image), total=True)

    assert before == after
    assert (after.next, after.total) == (None, 3)
    assert [item.digest for item in after.items] == made
    assert [item.artifact_type for item in after.items] == [NOTATION, SBOM, None]
    assert [item.signature for item in after.items] == ["notation", None, None]
    assert [item.annotations for item in after.items] == [{}, {"note": "all"}, {"a": "1", "b": "2"}]
    assert [item.media_type for item in after.items] == [
        each["mediaType"] for each in (signature, index, by_config)
    ]
    assert [item.size_bytes for item in after.items] == [
        each["size"] for each in (signature, index, by_config)
    ]


def test_filter_takes_some_types_and_an_empty_one_means_all(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    image = builder.image()
    put(image, "v1")
    kinds = [SBOM, NOTATION, SBOM, "application/x.other"]
    made = [put(builder.artifact(b"%d" % n, kind, image)) for n, kind in enumerate(kinds)]

    def asked(*types: str) -> list[Digest]:
        page = referrers(writing.database, "app", digest_of(image), artifact_types=types, total=True)
        assert page.total == len(page.items)
        return [item.digest for item in page.items]

    assert asked() == asked("") == made
    assert asked(SBOM) == [made[0], made[2]]
    assert asked(SBOM, NOTATION) == made[:3]
    assert asked("application/none") == []


def test_pages_go_on_where_they_ended_while_referrers_come_and_go(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    image = builder.image()
    put(image, "v1")
    made = [put(builder.artifact(b"%d" % n, SBOM, image)) for n in range(5)]
    of = digest_of(image)

    first = referrers(writing.database, "app", of, limit=2)
    delete_manifest(writing.writer, "app", made[1])
    delete_manifest(writing.writer, "app", made[3])
    late = put(builder.artifact(b"late", SBOM, image))
    second = referrers(writing.database, "app", of, limit=2, after=first.next)
    third = referrers(writing.database, "app", of, limit=2, after=second.next)

    pages = [[item.digest for item in page.items] for page in (first, second, third)]
    assert pages == [made[:2], [made[2], made[4]], [late]]
    assert third.next is None
    with pytest.raises(UsageError, match="another list"):
        referrers(writing.database, "app", of, artifact_types=[SBOM], after=first.next)


def test_who_does_not_see_the_repository_is_told_that_there_is_none(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    image = builder.image()
    put(builder.artifact(b"x", SBOM, image))
    of = digest_of(image)

    seen = referrers(writing.database, "app", of, visible=UnderPrefixes(["app"]))
    assert len(seen.items) == 1
    for ask in (referrers, referrer_tree):
        with pytest.raises(NotFound) as hidden:
            ask(writing.database, "app", of, visible=UnderPrefixes(["other"]))
        with pytest.raises(NotFound) as absent:
            ask(writing.database, "none", of)
        assert str(hidden.value).replace("app", "none") == str(absent.value)


def flat(nodes: tuple[ReferrerNode, ...]) -> list[object]:
    return [(node.referrer.digest, flat(node.referrers)) for node in nodes]


def test_tree_shows_what_refers_to_referrers_down_to_its_depth_and_limit(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    image = builder.image()
    sbom = builder.artifact(b"sbom", SBOM, image)
    signed = builder.artifact(b"signed", NOTATION, sbom)
    signed_again = builder.artifact(b"again", NOTATION, signed)
    other = builder.artifact(b"other", SBOM, image)
    a, b, c, d = map(put, (sbom, signed, signed_again, other))
    of = digest_of(image)

    whole = referrer_tree(writing.database, "app", of)
    assert (flat(whole.referrers), whole.is_cut) == ([(a, [(b, [(c, [])])]), (d, [])], False)
    exact = referrer_tree(writing.database, "app", of, depth=3, limit=4)
    assert exact == whole
    shallow = referrer_tree(writing.database, "app", of, depth=2)
    assert (flat(shallow.referrers), shallow.is_cut) == ([(a, [(b, [])]), (d, [])], True)
    small = referrer_tree(writing.database, "app", of, limit=1)
    assert (flat(small.referrers), small.is_cut) == ([(a, [])], True)
    assert referrer_tree(writing.database, "app", Digest.of(b"none")).referrers == ()
    with pytest.raises(UsageError):
        referrer_tree(writing.database, "app", of, depth=0)


def test_referrers_are_looked_up_by_their_subject(writing: Writing, builder: LayoutBuilder, put: Put) -> None:
    image = builder.image()
    put(builder.artifact(b"x", SBOM, image))
    of = digest_of(image)

    def ask() -> None:
        referrers(writing.database, "app", of, total=True)
        referrers(writing.database, "app", of, artifact_types=[SBOM], total=True)
        referrer_tree(writing.database, "app", of)

    for plan in plans(writing.database, ask):
        assert scans(plan, "manifests", "labels", "repositories") == [], plan
