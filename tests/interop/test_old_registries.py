"""The old registries that tests adopt are what they say: asked of the real program, and of their files."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from regmeta.oci.descriptor import REF_NAME
from regmeta.oci.digest import Digest
from regmeta.sources.storage import DefectKind
from tests.support.old_registries import layout_defects
from tests.support.old_registries.client import RegistryClient
from tests.support.old_registries.defects import lose_tags, plant, plant_leftovers
from tests.support.old_registries.docker import docker_folder, running, served_by
from tests.support.old_registries.docker_tree import DockerTree
from tests.support.old_registries.fixtures import old_docker
from tests.support.old_registries.layouts import blob_path, layouts_folder, read_index, zot_folder
from tests.support.old_registries.live import LiveRegistry
from tests.support.old_registries.planting import GOOD_TAG, NOT_PLANTED, Planted
from tests.support.old_registries.served import Served

pytestmark = pytest.mark.interop
__all__ = ["old_docker"]

OldDocker = Callable[..., Served]
FEW, ALL_KINDS = 6, 24


def hashed(repository: str, client: RegistryClient, kind: str, digest: str) -> tuple[int, bool]:
    """Return the status of some content, and whether its bytes have its digest."""
    if kind == "manifest":
        answer = client.get(repository, digest)
    else:
        answer = client.ask("GET", f"/v2/{repository}/blobs/{digest}")
    return answer.status, str(Digest.of(answer.body)) == digest


def pulled(repository: str, client: RegistryClient, digest: str) -> bool:
    """Tell whether a manifest and all that it names are served, each with its own digest."""
    if hashed(repository, client, "manifest", digest) != (200, True):
        return False
    document = client.get(repository, digest).json()
    blobs = [document["config"], *document["layers"]] if "layers" in document else []
    return all(hashed(repository, client, "blob", blob["digest"]) == (200, True) for blob in blobs) and all(
        pulled(repository, client, child["digest"]) for child in document.get("manifests", [])
    )


# --- a docker-registry ------------------------------------------------------------------------


def test_folder_serves_what_the_builder_says(old_docker: OldDocker, tmp_path: Path) -> None:
    served = old_docker(tmp_path / "old", ALL_KINDS)

    with running(served.root) as registry, RegistryClient(registry.host) as client:
        again = served_by(registry)
        everything = [
            pulled(name, client, str(digest))
            for name, digests in served.manifests.items()
            for digest in digests
        ]
    assert again == served
    assert all(everything)
    assert len(everything) > 40


def test_folder_has_all_that_an_old_registry_has(old_docker: OldDocker, tmp_path: Path) -> None:
    served = old_docker(tmp_path / "old", ALL_KINDS)

    types: set[str] = set()
    linked: dict[str, int] = defaultdict(int)
    tree = DockerTree(served.root)
    for name, digests in served.manifests.items():
        for digest in digests:
            document = json.loads(tree.data(str(digest)).read_bytes())
            types.add(document.get("mediaType", "none").rpartition(".")[2] + str("subject" in document))
        for link in (tree.folder(name) / "_layers/sha256").glob("*/link"):
            linked[link.read_text()] += 1
    assert types == {"v1+jsonFalse", "v1+jsonTrue", "v2+jsonFalse", "noneFalse"}
    assert max(linked.values()) > 3  # a base layer that many repositories share
    assert any("/" in name and name.rpartition("/")[0] in served.tags for name in served.tags)
    assert any(tag.startswith("sha256-") for tags in served.tags.values() for tag in tags)
    untagged = {
        digest
        for name, digests in served.manifests.items()
        for digest in digests - set(served.tags.get(name, {}).values())
    }
    assert untagged
    assert served.gone
    assert (tree.folder("never/finished") / "_uploads").is_dir()


def test_few_images_have_the_main_kinds(old_docker: OldDocker, tmp_path: Path) -> None:
    served = old_docker(tmp_path / "old", FEW)

    contents = [
        json.loads(DockerTree(served.root).data(str(digest)).read_bytes())
        for digests in served.manifests.values()
        for digest in digests
    ]
    assert {bool(document.get("manifests")) for document in contents} == {True, False}
    assert any("docker" in document["mediaType"] for document in contents)
    assert any("subject" in document for document in contents)
    assert served.gone
    assert "production/library/base" in served.tags


def test_seed_decides_all_content(tmp_path: Path) -> None:
    first = docker_folder(tmp_path / "first", FEW, seed=1)
    second = docker_folder(tmp_path / "second", FEW, seed=1, skopeo=False)
    other = docker_folder(tmp_path / "other", FEW, seed=2, skopeo=False)

    assert (first.tags, first.manifests, first.gone) == (second.tags, second.manifests, second.gone)
    assert first.tags.keys() == other.tags.keys()
    assert not {*first.manifests["a"]} & {*other.manifests["a"]}


def test_copies_of_a_folder_have_its_times(old_docker: OldDocker, tmp_path: Path) -> None:
    first, second = old_docker(tmp_path / "first"), old_docker(tmp_path / "second")

    def times(root: Path) -> dict[str, int]:
        return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("link")}

    assert first.tags == second.tags
    assert times(first.root) == times(second.root)


def test_files_written_by_hand_are_served_as_well(old_docker: OldDocker, tmp_path: Path) -> None:
    served = old_docker(tmp_path / "old")
    tree = DockerTree(served.root)
    before = served.tags["team/app"]

    added = tree.add_tags("team/app", 200)
    times = tree.spread_times()

    with running(served.root) as registry, RegistryClient(registry.host) as client:
        assert client.tags("team/app") == {**before, **added}
        assert pulled("team/app", client, str(added["build-000000"]))
    assert len(set(times.values())) > 200
    assert all(abs(path.stat().st_mtime - when.timestamp()) < 1 for path, when in times.items())


# --- defects of a docker-registry -------------------------------------------------------------


def is_misbehaving(client: RegistryClient, planted: Planted) -> bool:
    """Tell whether the registry cannot serve an image as its kind of defect says."""
    name, tag, digest = planted.repository, str(planted.tag), str(planted.digest)
    answer = client.get(name, tag)
    is_whole = answer.status == 200 and str(Digest.of(answer.body)) == digest
    match planted.kind:
        case "bad-repository-name" | "bad-tag-name" | "no-manifests-folder":
            return answer.status == 404
        case "missing-manifest" | "unlinked-manifest":
            return answer.status == 404
        case "empty-link" | "unreadable" | "unknown-media-type":
            return answer.status == 500
        case "bad-link" | "damaged-manifest" | "schema-1":
            return not is_whole
        case "invalid-manifest":
            return not is_whole or "manifests" in answer.json()
        case "empty-media-type":
            return is_whole and answer.json()["mediaType"] == ""
        case "broken-index-child":
            return is_whole and hashed(name, client, "manifest", planted.subject)[0] == 404
        case "missing-blob" | "foreign-layer":
            return is_whole and hashed(name, client, "blob", planted.subject)[0] == 404
        case "unlinked-blob":
            return is_whole and hashed(name, client, "blob", planted.subject)[0] in (404, 500)
        case "damaged-blob":
            return is_whole and hashed(name, client, "blob", planted.subject) == (200, False)
        case _:
            raise AssertionError(planted.kind)


def test_planted_defects_make_the_registry_misbehave_and_nothing_else(
    old_docker: OldDocker, tmp_path: Path
) -> None:
    served = old_docker(tmp_path / "old")
    planted = plant(served.root)
    empty = plant_leftovers(served.root)

    with running(served.root) as registry, RegistryClient(registry.host) as client:
        well_behaved = [item for item in planted if not is_misbehaving(client, item)]
        assert well_behaved == []
        assert all(pulled(item.repository, client, item.good) for item in planted if item.good is not None)
        assert all(client.digest_of(item.repository, GOOD_TAG) for item in planted if item.good is not None)
        for name, tags in served.tags.items():
            assert client.tags(name).items() >= tags.items()
        for name, digests in served.manifests.items():
            assert all(pulled(name, client, str(digest)) for digest in digests)
        assert all(client.tags(name) == {} for name in empty)


def test_each_kind_of_defect_is_planted_somewhere(old_docker: OldDocker, tmp_path: Path) -> None:
    old, zot = old_docker(tmp_path / "old"), zot_folder(tmp_path / "zot", FEW)

    in_docker = plant(old.root)
    in_layouts = layout_defects.plant_in_layouts(zot.root)

    of_files = set(get_args(DefectKind)) - NOT_PLANTED
    assert {item.kind for item in (*in_docker, *in_layouts)} == of_files
    for planted, good in ((in_docker, old), (in_layouts, zot)):
        own = [item for item in planted if item.repository.startswith("planted/")]
        hosted = [item for item in planted if item.repository in good.tags]
        assert {item.kind for item in hosted} <= {item.kind for item in own}
        assert len({item.repository for item in hosted}) > 3
        assert len({(item.repository, item.tag) for item in planted}) == len(planted)


def test_tags_that_are_lost_are_no_longer_served(old_docker: OldDocker, tmp_path: Path) -> None:
    served = old_docker(tmp_path / "old")

    lost = lose_tags(served.root, "team/web", keep=1)

    with running(served.root) as registry, RegistryClient(registry.host) as client:
        left = client.tags("team/web")
    assert len(lost) == len(served.tags["team/web"]) - 1 > 0
    assert {*left, *lost} == {*served.tags["team/web"]}


# --- layouts ----------------------------------------------------------------------------------


def test_tree_of_zot_lists_what_the_builder_says(tmp_path: Path) -> None:
    served = zot_folder(tmp_path / "zot", ALL_KINDS)

    for name, digests in served.manifests.items():
        layout = served.root / name
        listed = read_index(layout)["manifests"]
        assert {Digest.parse(entry["digest"]) for entry in listed} == digests
        assert all(Digest.of(blob_path(layout, str(digest)).read_bytes()) == digest for digest in digests)
        files = list((layout / "blobs/sha256").iterdir())
        assert all(Digest.of(path.read_bytes()).hex == path.name for path in files)
    assert any(path.stat().st_nlink > 1 for path in served.root.rglob("blobs/sha256/*"))
    assert any(served.root.rglob(".uploads/*"))
    assert any(served.root.rglob(".sync/*/*/index.json"))


def test_skopeo_reads_the_repositories_of_zot(tmp_path: Path) -> None:
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed")
    served = zot_folder(tmp_path / "zot", 1)
    ((name, tags),) = list(served.tags.items())
    ((tag, digest),) = tags.items()

    command = ["skopeo", "inspect", "--raw", f"oci:{served.root}/{name}:{tag}"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout

    assert Digest.of(raw) == digest


def test_placeholders_leave_the_bytes_of_each_blob_in_one_place(tmp_path: Path) -> None:
    full = zot_folder(tmp_path / "full", ALL_KINDS)
    emptied = zot_folder(tmp_path / "emptied", ALL_KINDS, placeholders=True)

    places: dict[str, list[int]] = defaultdict(list)
    for path in emptied.root.rglob("blobs/sha256/*"):
        if ".sync" not in path.parts:
            places[path.name].append(path.stat().st_size)
    empty = Digest.of(b"").hex
    assert (full.tags, full.manifests) == (emptied.tags, emptied.manifests)
    assert all(sum(size > 0 for size in sizes) == 1 for name, sizes in places.items() if name != empty)
    assert places[empty]  # the blob that is empty by right
    assert any(len(sizes) > 3 for sizes in places.values())


def test_layouts_of_several_tools_list_what_the_builder_says(tmp_path: Path) -> None:
    served = layouts_folder(tmp_path / "layouts", 3)

    assert {"built/plain", "built/docker", "built/nested"} <= served.tags.keys()
    for name, tags in served.tags.items():
        for digest in tags.values():
            assert digest.matches(blob_path(served.root / name, str(digest)).read_bytes())
    assert served.tag_count >= 8


def test_defects_of_layouts_leave_all_else_as_it_was(tmp_path: Path) -> None:
    served = zot_folder(tmp_path / "zot", FEW)
    before = {path: path.read_bytes() for path in served.root.rglob("blobs/sha256/*")}

    planted = layout_defects.plant_in_layouts(served.root)

    assert all(path.read_bytes() == content for path, content in before.items())
    for name, tags in served.tags.items():
        rows = [row for row in read_index(served.root / name)["manifests"] if isinstance(row, dict)]
        listed = {(row.get("annotations", {}).get(REF_NAME), row.get("digest")) for row in rows}
        assert listed >= {(tag, str(digest)) for tag, digest in tags.items()}
    assert {item.repository for item in planted} & served.tags.keys()


# --- a registry at work -----------------------------------------------------------------------


def test_record_of_a_registry_at_work_is_what_it_has(old_docker: OldDocker, tmp_path: Path) -> None:
    before = old_docker(tmp_path / "old")

    with LiveRegistry(before.root, seed=5, pause_s=0.0) as live:
        live.wait_for(40)
        pushes = live.stop()
        served = live.served()

    assert pushes.pushed >= 40
    assert {name: tags for name, tags in pushes.tags.items() if tags} == served.tags
    assert {name: digests for name, digests in pushes.manifests.items() if digests} == served.manifests
    assert pushes.deleted
    assert any(served.tags[name] != tags for name, tags in before.tags.items())  # tags of before were moved
    assert all(served.manifests[name] >= digests for name, digests in before.manifests.items())


def test_registry_at_work_ends_after_the_pushes_that_are_wanted(
    old_docker: OldDocker, tmp_path: Path
) -> None:
    with LiveRegistry(old_docker(tmp_path / "old").root, seed=6, pushes_wanted=5) as live:
        live.wait_for(5)
        assert live.stop().pushed == 5
