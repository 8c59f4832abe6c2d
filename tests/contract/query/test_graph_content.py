"""What an index lists, who uses a blob, what a few digits of a digest mean, and what sharing saves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from regmeta.app import Writing
from regmeta.errors import NotFound, UsageError
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.maintain.delete.repository import delete_repository
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query.blobs import BlobUser, blob, blob_repositories, blob_users
from regmeta.query.graph.members import children, parents
from regmeta.query.graph.prefixes import digests
from regmeta.query.graph.sharing import dedup
from regmeta.query.visibility import UnderPrefixes
from tests.builders import AMD64, ARM64, Json, LayoutBuilder, digest_of
from tests.support.plans import plans, scans
from tests.support.registry import change, commit_one, scalar

Put = Callable[..., Digest]
TABLES = (
    "blobs",
    "manifests",
    "manifest_blobs",
    "index_manifests",
    "repository_blobs",
    "repositories",
    "tags",
)


@pytest.fixture
def put(writing: Writing, builder: LayoutBuilder, layout: Path) -> Put:
    """Bring a manifest in under a name; without a tag if it says none."""

    def run(descriptor: Json, name: str, **options: bool) -> Digest:
        of = Reference.parse(name)
        commit_one(writing, builder, descriptor, layout, of.repository, of.tag, **options)
        return digest_of(descriptor)

    return run


# --- members -----------------------------------------------------------------------------------


def test_children_are_listed_in_their_places_whatever_they_are(
    writing: Writing, builder: LayoutBuilder, put: Put, tmp_path: Path
) -> None:
    image, gone = builder.image(platform=AMD64), builder.image(platform=ARM64)
    inner, other = builder.index([image]), builder.blob(b"?", "application/x.other")
    index = builder.index([image, inner, other, gone])
    del builder.blobs[gone["digest"]]
    put(index, "app:1", sparse=True)

    found = children(writing.database, Reference.parse("app:1"), total=True)

    assert [(item.position, item.digest, item.kind, item.absence) for item in found.items] == [
        (0, digest_of(image), "image", None),
        (1, digest_of(inner), "index", None),
        (2, digest_of(other), "blob", None),
        (3, digest_of(gone), "absent", "sparse"),
    ]
    assert [item.platform for item in found.items] == ["linux/amd64", None, None, "linux/arm64/v8"]
    assert (found.next, found.total) == (None, 4)
    first = children(writing.database, Reference.parse("app:1"), limit=3)
    rest = children(writing.database, Reference.parse("app:1"), limit=3, after=first.next)
    assert first.items + rest.items == found.items
    image_only = Reference("app", None, digest_of(image))
    assert children(writing.database, image_only).items == ()


def test_parents_are_the_indexes_of_the_repository_that_list_a_manifest_here_or_not(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    image, gone = builder.image(), builder.image()
    a, b = builder.index([image, gone]), builder.index([image, image], {"b": "b"})
    put(image, "app:image")
    put(b, "app:b")
    put(b, "else:b")
    del builder.blobs[gone["digest"]]
    put(a, "app:a", sparse=True)

    def asked(digest: Digest, **options: object) -> list[tuple[Digest, tuple[str, ...]]]:
        page = parents(writing.database, "app", digest, **options)  # type: ignore[arg-type]
        return [(item.digest, item.tags) for item in page.items]

    assert asked(digest_of(image)) == [(digest_of(b), ("b",)), (digest_of(a), ("a",))]
    assert asked(digest_of(gone)) == [(digest_of(a), ("a",))]
    assert asked(digest_of(a)) == []
    first = parents(writing.database, "app", digest_of(image), limit=1)
    assert asked(digest_of(image), after=first.next) == [(digest_of(a), ("a",))]
    delete_manifest(writing.writer, "app", digest_of(b))
    assert asked(digest_of(image)) == [(digest_of(a), ("a",))]
    with pytest.raises(NotFound):
        asked(digest_of(image), visible=UnderPrefixes(["else"]))


# --- blobs -------------------------------------------------------------------------------------


def test_users_of_a_blob_are_listed_once_for_each_way_in_which_they_use_it(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    layer = builder.layer(b"shared")
    one = builder.image([layer, b"between", layer])
    both = builder.image([layer], layer, artifactType="application/x.odd")
    index = builder.index([{**layer, "mediaType": "application/x.other"}])
    put(one, "app:1")
    put(both, "app:2")
    put(index, "else:3")
    shared = digest_of(layer)
    expected = [
        BlobUser("app", digest_of(one), "image", "layer", 1, ("1",)),
        BlobUser("app", digest_of(both), "image", "config", 0, ("2",)),
        BlobUser("app", digest_of(both), "image", "layer", 1, ("2",)),
        BlobUser("else", digest_of(index), "index", "member", 0, ("3",)),
    ]

    assert blob_users(writing.database, shared).items == tuple(expected)
    after, found = None, list[BlobUser]()
    for _page in expected:
        page = blob_users(writing.database, shared, limit=1, after=after)
        found.extend(page.items)
        after = page.next
    assert (found, after) == (expected, None)
    itself = blob_users(writing.database, digest_of(one)).items
    assert itself == (BlobUser("app", digest_of(one), "image", "itself", None, ("1",)),)
    delete_manifest(writing.writer, "app", digest_of(one))
    delete_repository(writing.writer, "else")
    assert blob_users(writing.database, shared).items == tuple(expected[1:3])


def test_repositories_of_a_blob_are_listed_page_by_page(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    image = builder.image([b"shared"])
    for name in ("b", "a", "c"):
        put(image, f"{name}:1")
    shared = Digest.of(b"shared")

    first = blob_repositories(writing.database, shared, limit=2, total=True)
    rest = blob_repositories(writing.database, shared, limit=2, after=first.next)
    assert (first.items, first.total, rest.items, rest.next) == (("b", "a"), 3, ("c",), None)
    with pytest.raises(UsageError):
        blob_repositories(writing.database, digest_of(image), after=first.next)


def test_blob_is_seen_through_repositories_that_are_seen_and_else_it_is_not_there(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    image = builder.image([b"shared"])
    put(image, "app:1")
    put(image, "else:1")
    put(builder.image([b"secret"]), "app:2")
    shared, secret, none = (Digest.of(content) for content in (b"shared", b"secret", b"none"))
    visible = UnderPrefixes(["else"])

    assert [use.repository for use in blob(writing.database, shared, visible=visible).uses] == ["else"]
    assert blob_repositories(writing.database, shared, total=True, visible=visible).items == ("else",)
    assert blob_repositories(writing.database, shared, total=True, visible=visible).total == 1
    assert [item.repository for item in blob_users(writing.database, shared, visible=visible).items] == [
        "else"
    ]
    for ask in (blob, blob_repositories, blob_users):
        with pytest.raises(NotFound) as hidden:
            ask(writing.database, secret, visible=visible)
        with pytest.raises(NotFound) as absent:
            ask(writing.database, none, visible=visible)
        assert str(hidden.value).replace(str(secret), str(none)) == str(absent.value)


# --- digests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_few_digits_find_what_begins_so_in_the_order_of_digests(
    writing: Writing, layout: Path, algorithm: str
) -> None:
    builder = LayoutBuilder(algorithm=algorithm)
    image = builder.image([b"%d" % n for n in range(20)])
    index = builder.index([image])
    commit_one(writing, builder, index, layout, "app", "v1")
    here = sorted(Digest.parse(each) for each in builder.blobs)
    kinds = {digest_of(image): "image", digest_of(index): "index"}

    for length in (2, 3, 4, 5, 63, 64):
        for wanted in here:
            begin = wanted.hex[:length]
            expected = [each for each in here if each.hex.startswith(begin)]
            for prefix in (begin, f"{algorithm}:{begin}", begin.upper()):
                found = digests(writing.database, prefix)
                assert [item.digest for item in found] == expected
                assert [item.kind for item in found] == [kinds.get(each, "blob") for each in expected]
    exact = digests(writing.database, str(here[0]))
    assert [(item.digest, item.repository) for item in exact] == [(here[0], "app")]
    other = "sha512" if algorithm == "sha256" else "sha256"
    assert digests(writing.database, f"{other}:{here[0].hex[:4]}") == []


def test_range_of_the_last_digits_ends_with_the_algorithm(writing: Writing, layout: Path) -> None:
    for algorithm in ("sha256", "sha512"):
        builder = LayoutBuilder(algorithm=algorithm)
        made: list[bytes] = []
        number = 0
        while not made:
            content = b"%d" % number
            number += 1
            if Digest.of(content, algorithm).hex.startswith("ff"):
                made.append(content)
        commit_one(writing, builder, builder.image(made), layout / algorithm, "app", algorithm)
    found = digests(writing.database, "ff")
    assert {item.digest.algorithm for item in found} == {"sha256", "sha512"}
    assert all(item.digest.hex.startswith("ff") for item in found)
    assert len(digests(writing.database, "ff", limit=1)) == 1


@pytest.mark.parametrize(
    "prefix", ["", "a", "sha256:", "sha256:a", "xy", "md5:abcd", "ab cd", "ab%", "a" * 129]
)
def test_what_is_no_beginning_of_a_digest_is_refused(writing: Writing, prefix: str) -> None:
    with pytest.raises(UsageError):
        digests(writing.database, prefix)
    with pytest.raises(UsageError):
        digests(writing.database, "sha256:" + "a" * 65)


def test_digits_find_nothing_that_was_deleted_or_is_not_seen(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    image = builder.image([b"shared"])
    of = put(image, "app:1")
    put(image, "else:1")

    def repositories(digest: Digest, *seen: str) -> list[str]:
        visible = UnderPrefixes(seen) if seen else None
        return [item.repository for item in digests(writing.database, digest.hex[:12], visible=visible)]

    assert repositories(of) == ["app"]
    assert repositories(of, "else") == repositories(Digest.of(b"shared"), "else") == ["else"]
    assert repositories(of, "none") == repositories(Digest.of(b"shared"), "none") == []
    delete_manifest(writing.writer, "app", of)
    assert repositories(of) == ["else"]
    assert repositories(of, "app") == []
    delete_repository(writing.writer, "else")
    assert repositories(of) == []


def test_deleted_manifest_hides_no_other_blob_of_its_repository(
    writing: Writing, builder: LayoutBuilder, put: Put
) -> None:
    layers = [builder.layer(b"keep")]
    config = builder.config(layers)
    put(builder.image(layers, config), "app:keep")
    gone = put(builder.image(), "app:gone")
    delete_manifest(writing.writer, "app", gone)
    for kept in (digest_of(layers[0]), digest_of(config)):
        [found] = digests(writing.database, str(kept))
        assert (found.digest, found.kind, found.repository) == (kept, "blob", "app")
    assert digests(writing.database, str(gone)) == []


@pytest.mark.inconsistent
def test_damaged_digest_hides_itself_only(writing: Writing, builder: LayoutBuilder, put: Put) -> None:
    put(builder.image([b"one"]), "app:1")
    digest = Digest.of(b"one")
    damaged = digest.to_bytes()[:10]
    assert scalar(writing.database, "SELECT count(*) FROM blobs") == 3
    change(
        writing.database,
        "UPDATE blobs SET digest = :bad WHERE id = (SELECT min(id) FROM blobs WHERE digest <> :of)",
        bad=damaged,
        of=digest.to_bytes(),
    )
    assert digest in [item.digest for item in digests(writing.database, digest.hex[:4])]


# --- sharing -----------------------------------------------------------------------------------


def test_report_says_what_is_saved_by_what(writing: Writing, builder: LayoutBuilder, put: Put) -> None:
    big, small = builder.layer(b"x" * 5000), builder.layer(b"y")
    config = builder.config([])
    image = builder.image([big, small], config)
    alone = builder.image([small], config)
    put(image, "a:1")
    put(image, "b:1")
    put(alone, "c:1")
    whole = sum(each["size"] for each in (big, small, config, image))
    third = sum(each["size"] for each in (small, config, alone))

    found = dedup(writing.database)

    assert (found.blobs, found.shared_blobs) == (5, 4)
    assert (found.logical_bytes, found.unique_bytes) == (2 * whole + third, whole + alone["size"])
    assert found.saved_bytes == found.logical_bytes - found.unique_bytes
    assert found.saved_bytes == sum(item.saved_bytes for item in found.most)
    assert (found.most[0].digest, found.most[0].repositories, found.most[0].saved_bytes) == (
        digest_of(big),
        2,
        5000,
    )
    by_use = dedup(writing.database, order="repositories", limit=2).most
    assert {item.digest for item in by_use} == {digest_of(small), digest_of(config)}
    seen = dedup(writing.database, visible=UnderPrefixes(["a"]))
    assert (seen.logical_bytes, seen.saved_bytes, seen.most) == (whole, 0, ())
    delete_repository(writing.writer, "b")
    assert dedup(writing.database).logical_bytes == whole + third
    assert dedup(writing.database, visible=UnderPrefixes(["none"])).blobs == 0


# --- plans -------------------------------------------------------------------------------------


def test_all_but_the_report_look_things_up(writing: Writing, builder: LayoutBuilder, put: Put) -> None:
    image = builder.image([b"shared"])
    index = builder.index([image])
    put(index, "app:1")
    database, some = writing.database, UnderPrefixes(["app"])

    def ask() -> None:
        for visible in (None, some):
            blob_users(database, Digest.of(b"shared"), visible=visible)
            blob_repositories(database, Digest.of(b"shared"), total=True, visible=visible)
            digests(database, digest_of(image).hex[:3], visible=visible)
            children(database, Reference.parse("app:1"), total=True, visible=visible)
            parents(database, "app", digest_of(image), visible=visible)
            parents(database, "app", Digest.of(b"none"), visible=visible)

    for plan in plans(database, ask):
        assert scans(plan, *TABLES) == [], plan
