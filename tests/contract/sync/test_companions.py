"""What belongs to an image comes with it: referrers, what refers to those, and the tags of cosign."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from regmeta.app import Writing
from regmeta.oci.digest import Digest
from regmeta.oci.names import referrers_tag
from tests.builders import Json, LayoutBuilder, digest_of, dumps
from tests.support.mirroring import bring, fetched, noted, outcome_of, sync, tags_of
from tests.support.registries.bad_registry import BadRegistry
from tests.support.registries.docker_registry import DockerRegistry
from tests.support.registries.rules import Status
from tests.support.registry import dump, rows, tags
from tests.support.statements import counted

SBOM = "application/vnd.example.sbom"


def manifests(writing: Writing) -> set[Digest]:
    """Return the digests of all manifests here."""
    found = rows(writing.database, "SELECT digest FROM manifests WHERE deleted_at IS NULL")
    return {Digest.from_bytes(bytes(digest)) for (digest,) in found}


def with_referrers(builder: LayoutBuilder) -> tuple[Json, list[Json]]:
    """Return an image with tag v1, a referrer, and one that refers to that."""
    image = builder.image()
    builder.tag(image, "v1")
    sbom = builder.artifact(b"sbom", SBOM, image)
    return image, [sbom, builder.artifact(b"of the sbom", SBOM, sbom)]


def list_by_tag(builder: LayoutBuilder, *subjects: Json) -> None:
    """Write the lists that stand in for the API: subject, referrer, subject, referrer..."""
    for subject, referrer in zip(subjects[::2], subjects[1::2], strict=True):
        builder.tag(builder.index([referrer]), referrers_tag(digest_of(subject)))


def content(writing: Writing) -> dict[str, object]:
    """Return all rows but those of the sync itself."""
    return {name: found for name, found in dump(writing.database).items() if not name.startswith("sync_")}


@pytest.mark.parametrize("api", [True, False])
def test_referrers_come_and_what_refers_to_them(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, api: bool
) -> None:
    image, [sbom, further] = with_referrers(builder)
    if not api:
        list_by_tag(builder, image, sbom, sbom, further)
    bad_registry.push(builder, "app")
    bad_registry.referrers_api = api
    assert sync(bad_registry, writing).counts.copied == 1
    assert manifests(writing) == {digest_of(each) for each in (image, sbom, further)}
    assert tags(writing.database) == {"v1": digest_of(image)}


def test_referrers_come_from_docker_registry(
    writing: Writing, docker_registry: DockerRegistry, builder: LayoutBuilder
) -> None:
    image, [sbom, further] = with_referrers(builder)
    builder.tag(sbom)
    builder.tag(further)
    list_by_tag(builder, image, sbom, sbom, further)
    repository = docker_registry.unique_name()
    docker_registry.push(builder, repository)
    assert sync(docker_registry, writing, repository).counts.copied == 1
    assert manifests(writing) == {digest_of(each) for each in (image, sbom, further)}


@pytest.mark.parametrize("api", [True, False])
def test_referrers_that_are_here_are_not_fetched_and_not_written(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, api: bool
) -> None:
    image, [sbom, further] = with_referrers(builder)
    if not api:
        list_by_tag(builder, image, sbom, sbom, further)
    bad_registry.push(builder, "app")
    bad_registry.referrers_api = api
    sync(bad_registry, writing)
    before = content(writing)
    bad_registry.requests.clear()
    assert sync(bad_registry, writing).counts.unchanged == 1
    lists = r"/manifests/sha256-|/referrers/"
    assert bad_registry.count("GET") - bad_registry.count("GET", lists) == 1  # the list of tags
    assert content(writing) == before


@pytest.mark.parametrize("api", [True, False])
def test_new_referrer_of_an_unchanged_image_comes_with_the_next_poll(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, api: bool
) -> None:
    image, _ = with_referrers(builder)
    bad_registry.referrers_api = api
    bad_registry.push(builder, "app")
    sync(bad_registry, writing)
    late = builder.artifact(b"late", SBOM, image)
    if not api:
        list_by_tag(builder, image, late)
    bad_registry.push(builder, "app")
    bad_registry.requests.clear()
    assert sync(bad_registry, writing).counts.copied == 1
    assert digest_of(late) in manifests(writing)
    assert bad_registry.count("GET", f"/manifests/(v1|{digest_of(image)})$") == 0  # the image is here


def test_new_referrer_of_a_referrer_comes_with_the_next_poll(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder
) -> None:
    _, [_, further] = with_referrers(builder)
    bad_registry.push(builder, "app")
    sync(bad_registry, writing)
    late = builder.artifact(b"late", SBOM, further)
    bad_registry.push(builder, "app")
    sync(bad_registry, writing)
    assert digest_of(late) in manifests(writing)


def test_referrers_of_the_images_in_an_index_come(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder
) -> None:
    child = builder.image()
    builder.tag(builder.index([child]), "v1")
    sbom = builder.artifact(b"sbom", SBOM, child)
    bad_registry.push(builder, "app")
    sync(bad_registry, writing)
    assert digest_of(sbom) in manifests(writing)


def test_circle_of_referrers_ends(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder
) -> None:
    """A real circle needs a broken hash; a list may say what it likes."""
    image, [sbom, further] = with_referrers(builder)
    list_by_tag(builder, image, sbom, sbom, further, further, sbom)
    builder.tag(builder.index([image, sbom]), referrers_tag(digest_of(further)))
    bad_registry.push(builder, "app")
    bad_registry.referrers_api = False
    assert sync(bad_registry, writing).counts.copied == 1
    assert manifests(writing) == {digest_of(each) for each in (image, sbom, further)}
    bad_registry.requests.clear()
    assert sync(bad_registry, writing).counts.unchanged == 1
    assert bad_registry.count("GET", "/manifests/sha256:") == 0


def test_listed_manifest_with_another_subject_is_ignored(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder
) -> None:
    image, stranger = builder.image(), builder.image()
    builder.tag(image, "v1")
    of_stranger = builder.artifact(b"other", SBOM, stranger)
    list_by_tag(builder, image, of_stranger)
    bad_registry.push(builder, "app")
    bad_registry.referrers_api = False
    assert sync(bad_registry, writing).counts.copied == 1
    assert manifests(writing) == {digest_of(image)}


def test_referrers_are_left_where_they_are_if_that_is_wanted(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder
) -> None:
    image, _ = with_referrers(builder)
    bad_registry.push(builder, "app")
    sync(bad_registry, writing, referrers=False)
    assert manifests(writing) == {digest_of(image)}
    assert bad_registry.count("GET", "/referrers/") == 0


def cosign(builder: LayoutBuilder, image: Json, *kinds: str) -> dict[str, Digest]:
    """Make the tags of cosign for an image."""
    made = {}
    for kind in kinds:
        tag = f"sha256-{digest_of(image).hex}.{kind}"
        found = builder.image([f"{kind} of {digest_of(image)}".encode()])
        builder.tag(found, tag)
        made[tag] = digest_of(found)
    return made


@pytest.mark.parametrize("whole_repository", [True, False])
def test_tags_of_cosign_come_with_their_image(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, whole_repository: bool
) -> None:
    image, other = builder.image(), builder.image()
    builder.tag(image, "v1")
    mine = cosign(builder, image, "sig", "att", "sbom")
    cosign(builder, other, "sig")
    bad_registry.push(builder, "app")
    if whole_repository:
        sync(bad_registry, writing)
    else:
        bring(bad_registry, writing, "v1")
    assert tags(writing.database) == {"v1": digest_of(image), **mine}


def test_tags_of_cosign_that_are_here_cost_a_head_and_follow_upstream(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder
) -> None:
    image = builder.image()
    builder.tag(image, "v1")
    cosign(builder, image, "sig", "att")
    bad_registry.push(builder, "app")
    sync(bad_registry, writing, referrers=False)
    before = content(writing)
    bad_registry.requests.clear()
    assert sync(bad_registry, writing, referrers=False).counts.unchanged == 1
    assert bad_registry.count("HEAD") == 3
    assert fetched(bad_registry) == 0
    assert content(writing) == before
    moved = builder.image([b"signed again"])
    builder.tag(moved, f"sha256-{digest_of(image).hex}.sig")
    bad_registry.push(builder, "app")
    assert sync(bad_registry, writing, referrers=False).counts.copied == 1
    assert tags(writing.database) == tags_of(builder)


def test_image_comes_though_a_referrer_cannot_be_had(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder
) -> None:
    image, [sbom, further] = with_referrers(builder)
    bad_registry.push(builder, "app")
    bad_registry.misbehave(f"/manifests/{digest_of(sbom)}", Status(500))
    report = sync(bad_registry, writing)
    assert tags(writing.database) == {"v1": digest_of(image)}
    assert noted(writing)["v1"] == ("failed", "RemoteUnavailable", 1)
    assert "the image is here" in str(outcome_of(report, "v1").reason)
    bad_registry.behave()
    sync(bad_registry, writing, only_due=True)
    assert manifests(writing) == {digest_of(each) for each in (image, sbom, further)}
    assert noted(writing)["v1"] == ("copied", None, 0)


@pytest.mark.parametrize("status", [500, 403])
def test_image_comes_though_its_referrers_cannot_be_listed(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, status: int
) -> None:
    image, _ = with_referrers(builder)
    bad_registry.push(builder, "app")
    bad_registry.misbehave("/referrers/", Status(status))
    sync(bad_registry, writing)
    assert tags(writing.database) == {"v1": digest_of(image)}
    assert noted(writing)["v1"][0] == "failed"


def test_too_many_referrers_are_not_followed_for_ever(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regmeta.sync.companions.MAX_COMPANIONS", 5)
    image = builder.image()
    builder.tag(image, "v1")
    for number in range(20):
        builder.artifact(dumps(number), SBOM, image)
    bad_registry.push(builder, "app")
    sync(bad_registry, writing)
    assert tags(writing.database) == {"v1": digest_of(image)}
    assert noted(writing)["v1"][:2] == ("failed", "InvalidManifest")
    assert fetched(bad_registry, "manifests") < 10


def test_poll_of_signed_images_needs_no_statement_for_each(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder
) -> None:
    for number in range(40):
        image = builder.image([b"%d" % number])
        builder.tag(image, f"v{number}")
        builder.artifact(b"sbom %d" % number, SBOM, image)
        cosign(builder, image, "sig")
    bad_registry.push(builder, "app")
    sync(bad_registry, writing)
    with counted(writing.database.engine) as statements:
        assert sync(bad_registry, writing).counts.unchanged == 40
    assert len(statements) <= 16, str(statements)


def index_with_sbom(builder: LayoutBuilder) -> Json:
    """Return what refers to one of the images of an index that is tagged v1."""
    child = builder.image([b"one"])
    builder.tag(builder.index([child, builder.image([b"two"])]), "v1")
    return builder.artifact(b"sbom", SBOM, child)


def test_referrer_of_a_child_that_failed_is_tried_again(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder
) -> None:
    sbom = index_with_sbom(builder)
    bad_registry.push(builder, "app")
    bad_registry.misbehave(f"/manifests/{digest_of(sbom)}", Status(503))
    for attempt in (1, 2):
        assert outcome_of(sync(bad_registry, writing), "v1").outcome == "failed"
        assert noted(writing)["v1"] == ("failed", "RemoteUnavailable", attempt)
    bad_registry.behave()
    bad_registry.requests.clear()
    assert sync(bad_registry, writing).counts.copied == 1
    assert digest_of(sbom) in manifests(writing)
    assert fetched(bad_registry, "manifests") == 1  # the image is here, with its children
    bad_registry.requests.clear()
    assert sync(bad_registry, writing).counts.unchanged == 1
    assert bad_registry.count("GET", "/referrers/") == 1  # all is known to be here


def test_referrers_of_children_come_when_they_are_wanted_later(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder
) -> None:
    sbom = index_with_sbom(builder)
    bad_registry.push(builder, "app")
    sync(bad_registry, writing, referrers=False)
    assert digest_of(sbom) not in manifests(writing)
    sync(bad_registry, writing, referrers=True)
    assert digest_of(sbom) in manifests(writing)


def test_image_whose_outcome_is_not_known_is_looked_at_whole_and_not_fetched_again(
    writing: Writing, bad_registry: BadRegistry, builder: LayoutBuilder
) -> None:
    """A killed run leaves images that are here, without a word of how it went with the rest."""
    index_with_sbom(builder)
    bad_registry.push(builder, "app")
    sync(bad_registry, writing)
    with writing.database.transaction("test") as connection:
        connection.execute(sa.text("DELETE FROM sync_items"))
    before = content(writing)
    bad_registry.requests.clear()
    assert sync(bad_registry, writing).counts.unchanged == 1
    assert fetched(bad_registry) == 0
    assert content(writing) == before
