"""Where only signed images are wanted: with the signature or not at all."""

from __future__ import annotations

import pytest

from regmeta.app import Writing
from regmeta.oci.names import referrers_tag
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support.mirroring import bring, fetched, noted, outcome_of, sync
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.rules import Rule, Status, WrongBytes
from tests.support.registry import rows, tags

NOTATION = "application/vnd.cncf.notary.signature"
SBOM = "application/vnd.example.sbom"


def sign(builder: LayoutBuilder, image: Json, how: str) -> Json:
    """Sign an image, by a tag of cosign or by a referrer."""
    if how == "tag":
        signature = builder.image([b"signature"])
        builder.tag(signature, f"sha256-{digest_of(image).hex}.sig")
        return signature
    return builder.artifact(b"signature", NOTATION, image)


@pytest.fixture
def image(builder: LayoutBuilder) -> Json:
    found = builder.image()
    builder.tag(found, "v1")
    return found


@pytest.mark.parametrize("how", ["tag", "referrer"])
def test_signed_image_comes_with_its_signature_in_one_transaction(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, image: Json, how: str
) -> None:
    unsigned = builder.image()
    builder.tag(unsigned, "v2")
    sign(builder, image, how)
    bad_registry.push(builder, "app")
    report = sync(bad_registry, writing, only_signed=True)
    assert report.counts.copied == 1
    assert report.counts.left_out == 1
    assert "v2" not in tags(writing.database)
    assert tags(writing.database)["v1"] == digest_of(image)
    assert rows(writing.database, "SELECT count(*) FROM manifests") == [(2,)]
    assert rows(writing.database, "SELECT count(DISTINCT pushed_at) FROM manifests") == [(1,)]
    assert "no signature" in str(outcome_of(report, "v2").reason)
    assert noted(writing)["v2"] == ("left out", None, 0)


@pytest.mark.parametrize("how", ["tag", "referrer"])
@pytest.mark.parametrize("part", ["manifest", "blob"])
@pytest.mark.parametrize("rule", [Status(500), Status(404), WrongBytes()], ids=["500", "404", "bytes"])
def test_image_is_not_exposed_while_its_signature_cannot_be_copied(
    writing: Writing,
    bad_registry: BadRegistry,
    builder: LayoutBuilder,
    image: Json,
    how: str,
    part: str,
    rule: Rule,
) -> None:
    signature = sign(builder, image, how)
    bad_registry.push(builder, "app")
    of = digest_of(signature)
    blob = next(digest for digest, content in builder.blobs.items() if content == b"signature")
    if part == "blob":
        bad_registry.misbehave(f"/blobs/{blob}", rule)
    else:
        bad_registry.misbehave(rf"/manifests/({of}|sha256-{digest_of(image).hex}\.sig)", rule)
    report = sync(bad_registry, writing, only_signed=True)
    assert report.counts.copied == 0
    assert tags(writing.database) == {}
    assert rows(writing.database, "SELECT count(*) FROM manifests") == [(0,)]
    [outcome] = report.items
    is_absent = how == "tag" and part == "manifest" and rule == Status(404)
    assert outcome.outcome == ("left out" if is_absent else "failed")
    bad_registry.behave()
    report = sync(bad_registry, writing, only_signed=True)
    assert report.counts.copied == 1
    assert tags(writing.database)["v1"] == digest_of(image)


def test_failure_is_named_after_what_went_wrong_with_the_signature(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, image: Json
) -> None:
    sign(builder, image, "tag")
    bad_registry.push(builder, "app")
    blob = next(digest for digest, content in builder.blobs.items() if content == b"signature")
    bad_registry.misbehave(blob, Status(503, {"Retry-After": "7200"}))
    report = sync(bad_registry, writing, only_signed=True)
    [outcome] = report.items
    assert outcome.error_class == "RemoteUnavailable"
    assert outcome.retry_after_s == 7200


@pytest.mark.parametrize("how", ["tag", "referrer"])
def test_signature_that_comes_later_brings_the_image(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, image: Json, how: str
) -> None:
    bad_registry.push(builder, "app")
    sync(bad_registry, writing, only_signed=True)
    bad_registry.requests.clear()
    assert sync(bad_registry, writing, only_signed=True).counts.left_out == 1
    assert fetched(bad_registry) == 0  # it is known to be unsigned
    assert bad_registry.count("HEAD") == 1
    sign(builder, image, how)
    bad_registry.push(builder, "app")
    assert sync(bad_registry, writing, only_signed=True).counts.copied == 1
    assert tags(writing.database)["v1"] == digest_of(image)


def test_other_referrer_is_no_signature(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, image: Json
) -> None:
    builder.artifact(b"sbom", SBOM, image)
    bad_registry.push(builder, "app")
    assert sync(bad_registry, writing, only_signed=True).counts.left_out == 1
    assert tags(writing.database) == {}


def test_signature_of_another_image_does_not_count_though_it_is_listed(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, image: Json
) -> None:
    other = builder.image()
    foreign = sign(builder, other, "referrer")
    builder.tag(builder.index([foreign]), referrers_tag(digest_of(image)))
    bad_registry.push(builder, "app")
    bad_registry.referrers_api = False
    assert sync(bad_registry, writing, only_signed=True).counts.left_out == 1
    assert tags(writing.database) == {}


def test_artifact_that_is_only_listed_as_a_signature_does_not_count(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, image: Json
) -> None:
    sbom = builder.artifact(b"sbom", SBOM, image)
    builder.tag(builder.index([{**sbom, "artifactType": NOTATION}]), referrers_tag(digest_of(image)))
    bad_registry.push(builder, "app")
    bad_registry.referrers_api = False
    assert sync(bad_registry, writing, only_signed=True).counts.left_out == 1
    assert tags(writing.database) == {}


def test_unknown_whether_there_is_a_signature_is_a_failure(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, image: Json
) -> None:
    bad_registry.push(builder, "app")
    bad_registry.misbehave("/referrers/", Status(500))
    report = sync(bad_registry, writing, only_signed=True)
    assert report.items[0].error_class == "RemoteUnavailable"
    assert tags(writing.database) == {}


def test_unsigned_image_that_was_asked_for_says_why(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, image: Json
) -> None:
    bad_registry.push(builder, "app")
    [outcome] = bring(bad_registry, writing, "v1", only_signed=True).items
    assert (outcome.outcome, type(outcome.error).__name__) == ("left out", "NotSigned")
