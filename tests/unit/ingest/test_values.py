"""What passes between the phases, and what rows are made of it; no database."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from regmeta import errors
from regmeta.ingest import retry, rows
from regmeta.ingest.plan import CommitResult, PlannedManifest, TagChange
from regmeta.ingest.reserve import chunks
from regmeta.oci import image_config, manifest
from regmeta.oci.digest import Digest
from tests.builders import Json, LayoutBuilder, digest_of
from tests.support import derived

ONE, TWO = Digest.of(b"one"), Digest.of(b"two", "sha512")


def planned(builder: LayoutBuilder, image: Json) -> PlannedManifest:
    content = builder.blobs[image["digest"]]
    document = manifest.parse(content, digest_of(image), image["mediaType"])
    config = image_config.UNKNOWN
    if isinstance(document, manifest.Manifest):
        config = image_config.parse(builder.blobs[str(document.config.digest)])
    return PlannedManifest(document, config)


class Numbers(dict[Digest, int]):
    """Gives each digest an id."""

    def __missing__(self, key: Digest) -> int:
        return self.setdefault(key, len(self) + 1)


def test_result_is_the_same_after_it_was_kept_as_json() -> None:
    result = CommitResult(
        ((1, "a"), (2, "b/c")), 3, 4, (TagChange("a", "v1", ONE, None), TagChange("a", "v2", None, TWO))
    )
    assert CommitResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    assert CommitResult.from_json(CommitResult(()).to_json()) == CommitResult(())


@pytest.mark.parametrize(("count", "pieces"), [(0, []), (1, [1]), (500, [500]), (501, [500, 1])])
def test_chunks_lose_nothing(count: int, pieces: list[int]) -> None:
    items = list(range(count))
    found = list(chunks(items))
    assert [len(some) for some in found] == pieces
    assert [item for some in found for item in some] == items


def edges_of(builder: LayoutBuilder, image: Json) -> list[tuple[Any, ...]]:
    ids = Numbers()
    made = rows.blob_edges([planned(builder, image)], ids, ids)
    return [(edge["position"], edge["role"], edge["chain_digest"]) for edge in made]


def test_chain_is_over_diff_ids_where_the_configuration_says_them() -> None:
    """image-spec config.md, "Layer ChainID"."""
    builder = LayoutBuilder()
    layers = [builder.layer(content) for content in (b"a", b"b", b"c")]
    diff_ids = [str(Digest.of(content)) for content in (b"x", b"y", b"z")]
    config = builder.blob(
        json.dumps({"rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode(),
        "application/vnd.oci.image.config.v1+json",
    )
    found = edges_of(builder, builder.image(layers, config))
    second = "sha256:" + hashlib.sha256(" ".join(diff_ids[:2]).encode()).hexdigest()
    third = "sha256:" + hashlib.sha256(f"{second} {diff_ids[2]}".encode()).hexdigest()
    assert [None if chain is None else str(chain) for _, _, chain in found] == [
        None,
        diff_ids[0],
        second,
        third,
    ]


@pytest.mark.parametrize("diff_ids", [[], ["sha256:" + "0" * 64], ["x", "y"], None])
def test_chain_is_over_layers_where_it_does_not(diff_ids: list[str] | None) -> None:
    builder = LayoutBuilder()
    layers = [builder.layer(content) for content in (b"a", b"b")]
    config = builder.blob(
        json.dumps({"rootfs": {"diff_ids": diff_ids}}).encode(), "application/vnd.oci.image.config.v1+json"
    )
    found = edges_of(builder, builder.image(layers, config))
    both = " ".join(layer["digest"] for layer in layers)
    assert str(found[2][2]) == "sha256:" + hashlib.sha256(both.encode()).hexdigest()


def test_images_with_a_common_base_share_its_chain() -> None:
    builder = LayoutBuilder()
    base = [builder.layer(b"base 1"), builder.layer(b"base 2")]
    one = edges_of(builder, builder.image([*base, b"app 1"]))
    two = edges_of(builder, builder.image([*base, b"app 2"]))
    assert [edge[2] for edge in one[:3]] == [edge[2] for edge in two[:3]]
    assert one[3][2] != two[3][2]


def test_labels_are_bounded() -> None:
    builder = LayoutBuilder()
    annotations = {f"n{number}": "v" for number in range(rows.MAX_LABELS + 10)}
    annotations = {"long": "x" * 10_000, "y" * 513: "left out", "nul\0": "left out", **annotations}
    item = planned(builder, builder.image([b"a"], annotations=annotations))
    found = rows.labels([item], Numbers())
    document = json.loads(item.document.content)
    assert {(row["origin"], row["name"], row["value"]) for row in found} == derived.labels(document, {})
    assert len(found) <= rows.MAX_LABELS
    assert max(len(row["value"]) for row in found) == rows.MAX_LABEL_VALUE


# --- trying again -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [errors.Contention("x"), errors.ConnectionLost("x"), errors.ConstraintViolated("x")]
)
def test_transaction_that_was_given_up_is_run_again(error: errors.Error) -> None:
    left = [error, error]

    def run() -> str:
        if left:
            raise left.pop()
        return "done"

    assert retry.retried(run) == "done"


@pytest.mark.parametrize(
    "error",
    [
        errors.DatabaseUnavailable("x"),
        errors.LostReservation(frozenset()),
        errors.RepositoryNotActive("x"),
        ValueError(),
    ],
)
def test_other_errors_are_not_tried_again(error: Exception) -> None:
    calls = []

    def run() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        retry.retried(run)
    assert len(calls) == 1


def test_trying_again_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "ATTEMPTS", 4)
    calls = []

    def run() -> None:
        calls.append(1)
        raise errors.Contention("x")

    with pytest.raises(errors.Contention):
        retry.retried(run)
    assert len(calls) == 4
