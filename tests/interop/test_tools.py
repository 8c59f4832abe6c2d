"""skopeo, umoci and buildah read what is written here, and what they write is imported; digests stay."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from regmeta.app import Writing
from regmeta.cli.root import app
from regmeta.ingest.tags import set_tag
from regmeta.oci.digest import Digest
from regmeta.settings import Settings
from tests.builders import LayoutBuilder, digest_of, tar_layer
from tests.support.registry import import_all, tags

pytestmark = [pytest.mark.interop, pytest.mark.parametrize("backend", ["sqlite"])]

EXAMPLES = Path(__file__).parents[2] / "examples"
INDEX = "sha256:f287e43d961451aa9679688e3a6f0e07574df10a4824d62b301e0cee359d2a34"
AMD64_IMAGE = "sha256:b65779fcec5ed0ae4943e34a27f78df4407f534365bbf6aebb551b1c0555f098"
DOCKER_LIST = "sha256:027a7768005c51ccca68a93cf53f61da7fce5d689c156e79c8bd9a0858170afe"


def tool(name: str, *arguments: str | Path, folder: Path | None = None) -> bytes:
    """Run a tool to its end and return what it wrote; without the tool the test is skipped."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [name, *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=60,
        cwd=folder,
        env={**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"},
    )
    assert done.returncode == 0, f"{name} {arguments}: {done.stderr.decode()}"
    return done.stdout


def raw_digest(reference: str) -> str:
    """Return the digest of the manifest that skopeo finds."""
    return f"sha256:{hashlib.sha256(tool('skopeo', 'inspect', '--raw', reference)).hexdigest()}"


def copy(source: str, target: str) -> None:
    """Copy an image with skopeo, all platforms of it, and change nothing."""
    tool("skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", source, target)


def regmeta(settings: Settings, *arguments: str | Path) -> None:
    """Run a command of ours."""
    from typer.testing import CliRunner

    environment = {"REGMETA_DATABASE": settings.database, "REGMETA_STORE": settings.store}
    done = CliRunner().invoke(app, ["--home", settings.home, *map(str, arguments)], env=environment)
    assert done.exit_code == 0, done.output


def layout_of(settings: Settings, repository: str) -> Path:
    """Return where a store shows a repository."""
    return Path(settings.store, "repositories", repository, "_layout")


def blobs_of(layout: Path) -> dict[str, bytes]:
    """Return the content of a layout, by digest; each must have its own."""
    found = {path.name: path.read_bytes() for path in (layout / "blobs" / "sha256").iterdir()}
    assert all(hashlib.sha256(content).hexdigest() == name for name, content in found.items())
    return found


# --- skopeo -----------------------------------------------------------------------------------


def test_copy_of_skopeo_is_imported_and_exported_with_the_same_digests(
    settings: Settings, tmp_path: Path
) -> None:
    copy(f"oci:{EXAMPLES}/sample:1.0", f"oci:{tmp_path}/copied:1.0")
    regmeta(settings, "import", tmp_path / "copied", "hello")
    regmeta(settings, "export", "hello:1.0", tmp_path / "exported")
    assert raw_digest(f"oci:{tmp_path}/exported:1.0") == INDEX
    copy(f"oci:{tmp_path}/exported:1.0", f"oci:{tmp_path}/again:1.0")
    assert blobs_of(tmp_path / "again") == blobs_of(tmp_path / "copied")


def test_repository_in_the_store_is_copied_by_skopeo_in_place(settings: Settings, tmp_path: Path) -> None:
    regmeta(settings, "import", EXAMPLES / "sample", "team/hello")
    shown = layout_of(settings, "team/hello")
    assert {raw_digest(f"oci:{shown}:{tag}") for tag in ("1.0", "latest")} == {INDEX}
    copy(f"oci:{shown}:1.0", f"oci:{tmp_path}/copied:1.0")
    assert raw_digest(f"oci:{tmp_path}/copied:1.0") == INDEX
    assert blobs_of(tmp_path / "copied") == blobs_of(EXAMPLES / "sample")


def test_archive_of_skopeo_is_imported(settings: Settings, tmp_path: Path) -> None:
    copy(f"oci:{EXAMPLES}/sample:1.0", f"oci-archive:{tmp_path}/image.tar:1.0")
    regmeta(settings, "import", tmp_path / "image.tar", "hello")
    assert raw_digest(f"oci:{layout_of(settings, 'hello')}:1.0") == INDEX


def test_exported_archive_is_read_by_skopeo(settings: Settings, tmp_path: Path) -> None:
    regmeta(settings, "import", EXAMPLES / "sample", "hello")
    regmeta(settings, "export", "hello:1.0", tmp_path / "image.tar")
    assert raw_digest(f"oci-archive:{tmp_path}/image.tar:1.0") == INDEX
    copy(f"oci-archive:{tmp_path}/image.tar:1.0", f"oci:{tmp_path}/copied:1.0")
    assert blobs_of(tmp_path / "copied") == blobs_of(EXAMPLES / "sample")


def test_docker_images_keep_their_bytes(settings: Settings, tmp_path: Path) -> None:
    regmeta(settings, "import", EXAMPLES / "sample-docker", "hello")
    regmeta(settings, "export", "hello:1.0", tmp_path / "exported")
    assert blobs_of(tmp_path / "exported") == blobs_of(EXAMPLES / "sample-docker")
    assert blobs_of(layout_of(settings, "hello")) == blobs_of(EXAMPLES / "sample-docker")
    # skopeo sees only OCI media types in a layout, so it gets Docker's through its own form.
    script = [str(EXAMPLES / "layout.py"), "export-dir", str(tmp_path / "exported"), "1.0"]
    tool("python3", *script, tmp_path / "docker")
    assert raw_digest(f"dir:{tmp_path}/docker") == DOCKER_LIST


def test_layout_in_the_store_shows_the_new_image_when_a_tag_moves(
    settings: Settings, writing: Writing, layout: Path
) -> None:
    builder = LayoutBuilder()
    images = [builder.image() for _ in range(2)]
    for number, image in enumerate(images):
        builder.tag(image, f"v{number}")
    import_all(writing, builder.write(layout), "app")
    shown = f"oci:{layout_of(settings, 'app')}"
    assert raw_digest(f"{shown}:v0") == str(digest_of(images[0]))
    set_tag(writing.writer, "app", "v0", digest_of(images[1]))
    assert raw_digest(f"{shown}:v0") == str(digest_of(images[1]))
    assert tool("umoci", "ls", "--layout", layout_of(settings, "app")).split() == [b"v0", b"v1"]


# --- umoci ------------------------------------------------------------------------------------


def test_one_platform_that_was_exported_is_unpacked_by_umoci(settings: Settings, tmp_path: Path) -> None:
    regmeta(settings, "import", EXAMPLES / "sample", "hello")
    regmeta(settings, "export", f"hello@{AMD64_IMAGE}", tmp_path / "one")
    index = json.loads((tmp_path / "one" / "index.json").read_bytes())
    assert [entry["digest"] for entry in index["manifests"]] == [AMD64_IMAGE]
    # umoci takes an image by its name, and what is exported by its digest has none.
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "one"}
    (tmp_path / "one" / "index.json").write_text(json.dumps(index))
    tool("umoci", "unpack", "--rootless", "--image", f"{tmp_path}/one:one", tmp_path / "bundle")
    found = [path for path in (tmp_path / "bundle" / "rootfs").rglob("*") if path.is_file()]
    assert len(found) >= 4
    assert all(path.stat().st_size for path in found)


def test_layout_of_umoci_is_imported_and_unpacked_again(settings: Settings, tmp_path: Path) -> None:
    made = tmp_path / "made"
    (tmp_path / "file").write_text("some content")
    tool("umoci", "init", "--layout", made)
    tool("umoci", "new", "--image", f"{made}:first")
    tool("umoci", "insert", "--rootless", "--image", f"{made}:first", tmp_path / "file", "/etc/inserted")
    tool("umoci", "tag", "--image", f"{made}:first", "second")
    regmeta(settings, "import", made, "umoci/app")
    shown = layout_of(settings, "umoci/app")
    assert tool("umoci", "ls", "--layout", shown).split() == [b"first", b"second"]
    assert raw_digest(f"oci:{shown}:first") == raw_digest(f"oci:{made}:first")
    regmeta(settings, "export", "umoci/app:second", tmp_path / "exported")
    tool("umoci", "unpack", "--rootless", "--image", f"{tmp_path}/exported:second", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/etc/inserted").read_text() == "some content"


# --- buildah ----------------------------------------------------------------------------------


def test_image_of_buildah_is_imported(settings: Settings, writing: Writing, tmp_path: Path) -> None:
    storage: list[str | Path] = [
        "--root",
        tmp_path / "root",
        "--runroot",
        tmp_path / "run",
        "--storage-driver",
        "vfs",
    ]
    (tmp_path / "layer.tar").write_bytes(tar_layer(b"content", "built"))
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed")
    began = subprocess.run(
        ["buildah", *map(str, storage), "from", "--name", "work", "scratch"],
        capture_output=True,
        check=False,
    )
    if began.returncode != 0:
        pytest.skip(f"buildah does not work here: {began.stderr.decode().strip()[-200:]}")
    tool("buildah", *storage, "add", "work", tmp_path / "layer.tar", "/")
    tool("buildah", *storage, "config", "--label", "by=buildah", "work")
    tool("buildah", *storage, "commit", "--format", "oci", "work", f"oci:{tmp_path}/made:built")
    regmeta(settings, "import", tmp_path / "made", "buildah/app")
    assert tags(writing.database, "buildah/app") == {
        "built": Digest.parse(raw_digest(f"oci:{tmp_path}/made:built"))
    }
