"""Summaries of images: what they count, what they say in place of what is not there, what they cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from regmeta import errors
from regmeta.app import Writing
from regmeta.ingest.tags import remove_tag, set_tag
from regmeta.maintain.delete.manifest import delete_manifest
from regmeta.models import Base
from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query import catalog
from regmeta.query.images.results import ImageSummary, Unreadable
from regmeta.query.images.summary import summaries, summary
from regmeta.query.visibility import UnderPrefixes
from tests.builders import AMD64, ARM64, S390X, Json, LayoutBuilder, digest_of, dumps
from tests.support.plans import plans, scans
from tests.support.registry import change, commit_one, scalar
from tests.support.statements import counted

OCI = "org.opencontainers.image."
NOTATION = "application/vnd.cncf.notary.signature"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@dataclass
class Registry:
    writing: Writing
    builder: LayoutBuilder
    layout: Path

    def put(self, image: Json, tag: str | None = "v1", repository: str = "app", **options: bool) -> Json:
        commit_one(self.writing, self.builder, image, self.layout, repository, tag, **options)
        return image

    def summary(self, reference: str = "app:v1", at: datetime | None = None) -> ImageSummary:
        return summary(self.writing.database, Reference.parse(reference), at=at)

    def pull(self, image: Json, tag: str, count: int, day: int = 20000) -> None:
        change(
            self.writing.database,
            "INSERT INTO pull_stats (repository_id, digest, tag, day, pulls, last_pulled_at)"
            " SELECT id, :digest, :tag, :day, :count, :at FROM repositories WHERE name = 'app'",
            digest=digest_of(image).to_bytes(),
            tag=tag,
            day=day,
            count=count,
            at=day * 86_400_000_000,
        )

    def size_of(self, blobs: Iterable[Json]) -> int:
        return sum({blob["digest"]: blob["size"] for blob in blobs}.values())


@pytest.fixture
def registry(writing: Writing, builder: LayoutBuilder, layout: Path) -> Registry:
    return Registry(writing, builder, layout)


# --- one image --------------------------------------------------------------------------------


def test_image_is_summed_up(registry: Registry) -> None:
    builder = registry.builder
    layers = [builder.layer(), builder.layer()]
    config = builder.config(layers, Labels={"team": "a", OCI + "vendor": "label"})
    image = registry.put(builder.image(layers, config, {OCI + "title": "App", OCI + "vendor": "own"}))
    found = registry.summary()
    assert (found.repository, found.digest, found.kind) == ("app", digest_of(image), "image")
    assert (found.media_type, found.artifact_type) == (media_types.OCI_MANIFEST, None)
    assert (found.tags, found.platforms) == (("v1",), ("linux/amd64",))
    assert found.size_bytes == registry.size_of([image, config, *layers])
    assert found.manifest_bytes == image["size"]
    assert found.labels == {"team": "a", OCI + "vendor": "label"}
    assert found.annotations == {OCI + "title": "App", OCI + "vendor": "own"}
    assert (found.described.title, found.described.vendor) == ("App", "own")
    assert (found.signatures, found.referrers, found.is_signed) == ({}, {}, False)
    [entry] = found.images
    assert (entry.kind, entry.digest, entry.layers) == ("image", digest_of(image), 2)
    assert entry.size_bytes == found.size_bytes


def test_layer_that_is_listed_twice_is_counted_once(registry: Registry) -> None:
    layer = registry.builder.layer()
    config = registry.builder.config([layer, layer])
    image = registry.put(registry.builder.image([layer, layer], config))
    assert registry.summary().size_bytes == registry.size_of([image, config, layer])


def test_times_are_told_apart_and_none_is_1970(registry: Registry) -> None:
    image = registry.put(registry.builder.image(annotations={OCI + "created": "2001-02-03T04:05:06Z"}))
    found = registry.summary()
    assert found.created_at == datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert found.tagged_at == found.pushed_at
    assert (found.pulls, found.last_pulled_at, found.pushed_by) == (0, None, "tester")
    set_tag(registry.writing.writer, "app", "again", digest_of(image))
    again = registry.summary()
    assert (again.pushed_at, again.tags) == (found.pushed_at, ("again", "v1"))
    assert again.tagged_at is not None
    assert again.tagged_at > found.pushed_at
    for tag in ("again", "v1"):
        remove_tag(registry.writing.writer, "app", tag)
    untagged = registry.summary(f"app@{image['digest']}")
    assert (untagged.tags, untagged.tagged_at) == ((), None)


def test_created_is_unknown_of_an_image_that_does_not_say(registry: Registry) -> None:
    layers = [registry.builder.layer()]
    document = {**AMD64, "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]}}
    config = registry.builder.blob(dumps(document), media_types.OCI_CONFIG)
    registry.put(registry.builder.image(layers, config))
    assert registry.summary().created_at is None


def test_each_pull_is_counted_once_whatever_it_was_by(registry: Registry) -> None:
    image = registry.put(registry.builder.image())
    registry.put(image, "v2")
    other = registry.put(registry.builder.image(), "other")
    registry.pull(image, "v1", 3)
    registry.pull(image, "v2", 4, day=20001)
    registry.pull(image, "", 5)
    registry.pull(other, "other", 100)
    found = registry.summary()
    assert (found.pulls, found.last_pulled_at) == (12, datetime(2024, 10, 5, tzinfo=UTC))
    assert registry.summary("app:v2").pulls == 12


def test_artifact_has_no_platform_and_is_listed(registry: Registry) -> None:
    registry.put(registry.builder.artifact(b"chart", "application/vnd.example.chart"))
    found = registry.summary()
    assert (found.artifact_type, found.platforms) == ("application/vnd.example.chart", ())
    assert [entry.kind for entry in found.images] == ["image"]


def test_what_is_not_here_is_not_found(registry: Registry) -> None:
    registry.put(registry.builder.image())
    for reference in ("app:other", "other:v1", f"app@{Digest.of(b'x')}"):
        with pytest.raises(errors.NotFound, match=reference):
            registry.summary(reference)


# --- indexes ----------------------------------------------------------------------------------


def test_layer_that_platforms_share_is_counted_once_in_all_and_once_in_each(registry: Registry) -> None:
    builder = registry.builder
    base = builder.layer()
    own = [builder.layer(), builder.layer()]
    configs = [builder.config([base, layer], each) for layer, each in zip(own, (AMD64, ARM64), strict=True)]
    images = [
        builder.image([base, layer], config, platform=each)
        for layer, config, each in zip(own, configs, (AMD64, ARM64), strict=True)
    ]
    index = registry.put(builder.index(images))
    found = registry.summary()
    assert (found.kind, found.platforms) == ("index", ("linux/amd64", "linux/arm64/v8"))
    assert found.size_bytes == registry.size_of([index, *images, *configs, base, *own])
    assert [entry.size_bytes for entry in found.images] == [
        registry.size_of([image, config, base, layer])
        for image, config, layer in zip(images, configs, own, strict=True)
    ]


def test_pulls_of_an_index_are_its_own(registry: Registry) -> None:
    child = registry.builder.image(platform=AMD64)
    index = registry.put(registry.builder.index([child]))
    registry.pull(index, "v1", 2)
    registry.pull(child, "", 7)
    found = registry.summary()
    assert (found.pulls, [entry.pulls for entry in found.images]) == (2, [7])


def test_children_that_are_absent_are_said_and_hide_nothing(registry: Registry) -> None:
    builder = registry.builder
    here, gone = builder.image(platform=AMD64), builder.image(platform=S390X)
    inner = builder.index([gone, builder.image(platform=ARM64)])
    del builder.blobs[gone["digest"]]
    registry.put(builder.index([here, inner]), sparse=True)
    found = registry.summary()
    assert found.platforms == ("linux/amd64", "linux/arm64/v8")
    assert [
        (entry.kind, entry.platform, entry.absence, entry.size_bytes is None) for entry in found.images
    ] == [
        ("image", "linux/amd64", None, False),
        ("absent", "linux/s390x", "sparse", True),
        ("image", "linux/arm64/v8", None, False),
    ]


def test_index_of_which_nothing_is_here_is_shown(registry: Registry) -> None:
    gone = registry.builder.image(platform=AMD64)
    del registry.builder.blobs[gone["digest"]]
    index = registry.put(registry.builder.index([gone]), sparse=True)
    found = registry.summary()
    assert (found.digest, found.platforms, found.size_bytes) == (digest_of(index), (), index["size"])


def test_absent_child_that_came_later_is_in_the_summary(registry: Registry) -> None:
    builder = registry.builder
    child = builder.image(platform=AMD64)
    content = builder.blobs.pop(child["digest"])
    registry.put(builder.index([child]), sparse=True)
    builder.blobs[child["digest"]] = content
    registry.put(child, None)
    assert registry.summary().platforms == ("linux/amd64",)


def test_platform_is_what_the_index_says_and_else_what_the_configuration_says(registry: Registry) -> None:
    builder = registry.builder
    silent = builder.image(platform=ARM64)
    del silent["platform"]
    said = {**builder.image(), "platform": {"os": "linux", "architecture": "riscv64"}}
    registry.put(builder.index([said, silent]))
    assert registry.summary().platforms == ("linux/riscv64", "linux/arm64/v8")


def test_attestation_is_listed_and_is_no_platform(registry: Registry) -> None:
    builder = registry.builder
    unknown = {"os": "unknown", "architecture": "unknown"}
    registry.put(builder.index([builder.image(platform=AMD64), builder.image(platform=unknown)]))
    found = registry.summary()
    assert (found.platforms, len(found.images)) == (("linux/amd64",), 2)


def test_index_is_described_by_itself_and_then_by_the_first_image_that_says(registry: Registry) -> None:
    builder = registry.builder
    layers = [builder.layer()]
    labelled = builder.config(layers, ARM64, Labels={OCI + "vendor": "second", OCI + "licenses": "MIT"})
    images = [
        builder.image(annotations={OCI + "licenses": "Apache-2.0"}, platform=AMD64),
        builder.image(layers, labelled, platform=ARM64),
    ]
    registry.put(builder.index(images, {OCI + "title": "index"}))
    about = registry.summary().described
    assert (about.title, about.licenses, about.vendor) == ("index", "Apache-2.0", "second")
    assert registry.summary().annotations == {OCI + "title": "index"}


def test_image_that_an_index_lists_twice_is_listed_once(registry: Registry) -> None:
    image = registry.builder.image(platform=AMD64)
    inner = registry.builder.index([image])
    registry.put(registry.builder.index([inner, image, inner]))
    assert len(registry.summary().images) == 1


# --- signatures and referrers -----------------------------------------------------------------


def test_signatures_and_referrers_are_counted_by_kind(registry: Registry) -> None:
    builder = registry.builder
    image = registry.put(builder.image())
    for content, kind in ((b"1", NOTATION), (b"2", NOTATION), (b"3", "application/sbom")):
        registry.put(builder.artifact(content, kind, image), None)
    bundle = builder.artifact(b"4", BUNDLE, image)
    registry.put(bundle, None)
    tag = f"sha256-{digest_of(image).hex}.sig"
    registry.put(builder.artifact(b"5", "application/vnd.example.simple"), tag)
    found = registry.summary()
    assert found.signatures == {"bundle": 1, "cosign-tag": 1, "notation": 2}
    assert found.referrers == {"application/sbom": 1, BUNDLE: 1, NOTATION: 2}
    assert found.is_signed


def test_attestation_bundle_is_a_referrer_and_no_signature(registry: Registry) -> None:
    builder = registry.builder
    image = registry.put(builder.image())
    config = builder.blob(b"{}", media_types.OCI_EMPTY)
    subject = {key: image[key] for key in ("mediaType", "digest", "size")}
    said = {"dev.sigstore.bundle.predicateType": "https://slsa.dev/provenance/v1"}
    registry.put(builder.image([b"x"], config, said, artifactType=BUNDLE, subject=subject), None)
    found = registry.summary()
    assert (found.signatures, found.referrers) == ({}, {BUNDLE: 1})


def test_signature_with_cosigns_tag_and_a_subject_is_counted_once(registry: Registry) -> None:
    image = registry.put(registry.builder.image())
    signature = registry.builder.artifact(b"1", NOTATION, image)
    registry.put(signature, f"sha256-{digest_of(image).hex}.sig")
    assert registry.summary().signatures == {"notation": 1}


def test_deleting_the_only_signature_leaves_none(registry: Registry) -> None:
    image = registry.put(registry.builder.image())
    signature = registry.put(registry.builder.artifact(b"1", NOTATION, image), None)
    assert registry.summary().is_signed
    delete_manifest(registry.writing.writer, "app", digest_of(signature))
    found = registry.summary()
    assert (found.signatures, found.referrers) == ({}, {})


def test_signature_of_an_index_is_none_of_its_images(registry: Registry) -> None:
    child = registry.builder.image(platform=AMD64)
    index = registry.put(registry.builder.index([child]))
    registry.put(registry.builder.artifact(b"1", NOTATION, index), None)
    found = registry.summary()
    assert (found.is_signed, [entry.signatures for entry in found.images]) == (True, [0])
    registry.put(registry.builder.artifact(b"2", NOTATION, child), None)
    assert [entry.signatures for entry in registry.summary().images] == [1]


# --- the past ---------------------------------------------------------------------------------


def test_summary_of_the_past_has_the_tags_and_signatures_of_then(registry: Registry) -> None:
    image = registry.put(registry.builder.image())
    then = catalog.tag(registry.writing.database, "app", "v1").history[0].started_at
    registry.put(registry.builder.artifact(b"1", NOTATION, image), f"sha256-{digest_of(image).hex}.sig")
    set_tag(registry.writing.writer, "app", "v2", digest_of(image))
    found = registry.summary(at=then)
    assert (found.tags, found.signatures, found.referrers) == (("v1",), {}, {})
    remove_tag(registry.writing.writer, "app", "v1")
    assert registry.summary(at=then).tags == ("v1",)


# --- pages ------------------------------------------------------------------------------------


def page(registry: Registry, *references: str, prefix: str | None = None) -> list[ImageSummary | Unreadable]:
    visible = None if prefix is None else UnderPrefixes([prefix])
    wanted = [Reference.parse(text) for text in references]
    return list(summaries(registry.writing.database, wanted, visible=visible))


def test_page_says_what_one_summary_says_in_the_order_asked_for(registry: Registry) -> None:
    builder = registry.builder
    first = registry.put(builder.image())
    registry.put(builder.index([builder.image(platform=AMD64)]), "v2")
    registry.put(builder.image(), "latest", "team/other")
    references = ["team/other", "app:v2", f"app@{first['digest']}", "app:v1", "app:v2"]
    assert page(registry, *references) == [registry.summary(text) for text in references]
    assert page(registry) == []


def test_page_says_in_its_place_what_is_not_here(registry: Registry) -> None:
    registry.put(registry.builder.image())
    missing = ["app:no", f"app@{Digest.of(b'x')}", "other:v1"]
    found = page(registry, missing[0], "app:v1", *missing[1:])
    assert found[1] == registry.summary()
    assert [found[0], *found[2:]] == [Unreadable(text, "no such image") for text in missing]


def test_what_may_not_be_seen_is_answered_as_what_is_not_there(registry: Registry) -> None:
    registry.put(registry.builder.image())
    registry.put(registry.builder.image(), "v1", "team/app")
    found = page(registry, "app:v1", "team/app:v1", "none:v1", prefix="team")
    assert found[0] == Unreadable("app:v1", "no such image")
    assert found[1] == registry.summary("team/app:v1")
    assert found[2] == Unreadable("none:v1", "no such image")
    with pytest.raises(errors.NotFound, match="app:v1: no such tag"):
        summary(registry.writing.database, Reference.parse("app:v1"), visible=UnderPrefixes(["team"]))


@pytest.mark.inconsistent
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE manifests SET digest = :bad WHERE id = :id",
        "UPDATE manifests SET subject_digest = :bad WHERE id = :id",
    ],
)
def test_damaged_image_does_not_fail_its_page(registry: Registry, damage: str) -> None:
    registry.put(registry.builder.image())
    registry.put(registry.builder.image(), "v2")
    whole = registry.summary("app:v2")
    manifest = registry.summary().id
    change(registry.writing.database, damage, bad=b"\x09bad", id=manifest)
    found = page(registry, "app:v1", "app:v2")
    assert isinstance(found[0], Unreadable)
    assert "not a stored digest" in found[0].why
    assert found[1] == whole


@pytest.mark.inconsistent
def test_damaged_child_is_said_in_its_place(registry: Registry) -> None:
    builder = registry.builder
    child, other = builder.image(platform=AMD64), builder.image(platform=ARM64)
    registry.put(builder.index([child, other]))
    change(
        registry.writing.database,
        "UPDATE manifests SET digest = :bad WHERE digest = :of",
        bad=b"\x09bad",
        of=digest_of(child).to_bytes(),
    )
    found = registry.summary()
    assert [(entry.platform, entry.digest, entry.absence) for entry in found.images] == [
        ("linux/amd64", digest_of(child), "damaged"),
        ("linux/arm64/v8", digest_of(other), None),
    ]


@pytest.mark.soak_on_postgresql
def test_page_of_fifty_sends_as_many_statements_as_one_of_one(registry: Registry) -> None:
    builder = registry.builder
    for number in range(50):
        image = builder.image(platform=AMD64)
        registry.put(builder.index([image]) if number % 2 else image, f"v{number}")
    engine = registry.writing.database.engine
    with counted(engine) as one:
        page(registry, "app:v1")
    with counted(engine) as many:
        found = page(registry, *(f"app:v{number}" for number in range(50)))
    assert all(isinstance(item, ImageSummary) for item in found)
    assert len(many) == len(one), f"{one}\n--\n{many}"
    assert len(one.of("SELECT", "WITH")) <= 13, str(one)


def test_no_statement_reads_a_whole_table(registry: Registry) -> None:
    first = registry.put(registry.builder.index([registry.builder.image(platform=AMD64)]))
    second = registry.put(registry.builder.image(), "v1", "other")
    pushed_at = registry.summary().pushed_at
    names = ("app:v1", "other:v1", f"app@{first['digest']}", f"other@{second['digest']}")
    for run in (lambda: page(registry, *names), lambda: registry.summary(at=pushed_at)):
        for plan in plans(registry.writing.database, run):
            assert scans(plan, *Base.metadata.tables) == [], plan


def test_id_is_that_of_the_row(registry: Registry) -> None:
    registry.put(registry.builder.image())
    assert registry.summary().id == scalar(registry.writing.database, "SELECT id FROM manifests")
