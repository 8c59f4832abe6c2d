"""What a real docker-registry has stored is adopted, and every image comes out as that registry serves it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from regmeta.oci import media_types
from regmeta.oci.descriptor import REF_NAME
from regmeta.oci.digest import Digest
from tests.builders import Json
from tests.cli.conftest import Command, bare, home, new_home, regmeta
from tests.support.old_registries.client import RegistryClient
from tests.support.old_registries.docker import running
from tests.support.old_registries.fixtures import old_docker
from tests.support.old_registries.layouts import blob_path, read_index
from tests.support.old_registries.live import LiveRegistry
from tests.support.old_registries.served import Served

pytestmark = pytest.mark.interop
__all__ = ["bare", "home", "new_home", "old_docker", "regmeta"]

IMAGES: Final = 30
OF_LAYOUTS: Final = (media_types.OCI_MANIFEST, media_types.OCI_INDEX)
"""What skopeo finds in a layout by its name; Docker's types it does not."""


def tool(*command: object) -> bytes:
    done = subprocess.run([str(part) for part in command], capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def ref_name(entry: Json) -> str:
    return str(entry["annotations"][REF_NAME])


def named(client: RegistryClient, repository: str, content: bytes) -> dict[str, bytes]:
    """Ask the old registry for all that a manifest names, at any depth."""
    document = json.loads(content)
    found: dict[str, bytes] = {}
    for blob in [document.get("config"), *document.get("layers", [])]:
        if blob is not None and blob["mediaType"] not in media_types.NON_DISTRIBUTABLE:
            found[blob["digest"]] = client.expect(200, "GET", f"/v2/{repository}/blobs/{blob['digest']}").body
    for child in document.get("manifests", []):
        inner = client.get(repository, child["digest"]).body
        found |= {child["digest"]: inner, **named(client, repository, inner)}
    return found


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")
def test_every_image_comes_out_as_the_old_registry_serves_it(
    regmeta: Command, old_docker: Callable[..., Served], tmp_path: Path
) -> None:
    served = old_docker(tmp_path / "old", IMAGES)
    assert regmeta("adopt", served.root).code == 0
    assert regmeta("adopt", "verify", served.root, "--deep").code == 0

    count = inspected = 0
    with running(served.root) as registry, RegistryClient(registry.host) as client:
        for number, (repository, tags) in enumerate(sorted(served.tags.items())):
            layout = tmp_path / f"export-{number}"
            done = regmeta("export", repository, layout)
            assert done.code == 0, done.err
            for tag, digest in sorted(tags.items()):
                theirs = client.get(repository, tag).body
                [entry] = [each for each in read_index(layout)["manifests"] if ref_name(each) == tag]
                assert entry["digest"] == str(digest) == str(Digest.of(theirs))
                assert blob_path(layout, entry["digest"]).read_bytes() == theirs
                if entry["mediaType"] in OF_LAYOUTS:
                    assert tool("skopeo", "inspect", "--raw", f"oci:{layout}:{tag}") == theirs
                    inspected += 1
                for blob, content in named(client, repository, theirs).items():
                    assert blob_path(layout, blob).read_bytes() == content
                count += 1
    assert count == served.tag_count
    assert inspected > 10


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")
def test_image_that_was_adopted_can_be_copied_on(
    regmeta: Command, old_docker: Callable[..., Served], tmp_path: Path
) -> None:
    served = old_docker(tmp_path / "old", 6)
    regmeta("adopt", served.root, "--prefix", "moved")
    repository, tag, entry = "", "", {}
    for name in sorted(served.tags):
        assert regmeta("export", f"moved/{name}", tmp_path / "export" / name).code == 0
        for each in read_index(tmp_path / "export" / name)["manifests"]:
            if each["mediaType"] in OF_LAYOUTS:
                repository, tag, entry = name, ref_name(each), each
    copied = tmp_path / "copied"
    tool("skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", "--quiet",
         f"oci:{tmp_path / 'export' / repository}:{tag}", f"dir:{copied}")  # fmt: skip
    assert str(Digest.of((copied / "manifest.json").read_bytes())) == entry["digest"]


def test_registry_at_work_is_brought_with_a_second_run(
    regmeta: Command, old_docker: Callable[..., Served], tmp_path: Path
) -> None:
    served = old_docker(tmp_path / "old", IMAGES)
    with LiveRegistry(served.root, seed=8) as live:
        live.wait_for(5)
        first = regmeta("adopt", served.root, "--json")
        live.wait_for(live.pushes.pushed + 5)
        pushes = live.stop()
        second = regmeta("adopt", served.root, "--json")
    assert (first.json["failures"], second.json["failures"]) == ([], [])
    assert second.code == 0, second.out
    verify = regmeta("adopt", "verify", served.root, "--deep", "--json")
    assert verify.code == 0, verify.out
    for repository, tags in pushes.tags.items():
        listed = regmeta("tag", "ls", repository, "--json", "--limit", 1000).json["items"]
        assert {each["name"] for each in listed} == set(tags)
    assert regmeta("adopt", "finalize", served.root).code == 0
