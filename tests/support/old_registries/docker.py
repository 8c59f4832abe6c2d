"""A folder that Debian's docker-registry wrote.

    served = docker_folder(tmp_path / "old", 6)
    adopt(served.root)

Most images come from a client of ours over one connection, some from skopeo if it is installed.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from regmeta.oci import media_types
from regmeta.oci.digest import Digest
from tests.builders import Json, LayoutBuilder
from tests.support.old_registries.client import RegistryClient
from tests.support.old_registries.content import LAYER_BYTES, Step, steps
from tests.support.old_registries.served import Served
from tests.support.registries.docker_registry import DockerRegistry

IMAGES: Final = 300
SKOPEO_COPY: Final = ("skopeo", "--insecure-policy", "copy", "--all", "--quiet")
MEMORY: Final = Path("/dev/shm")
IN_MEMORY_BYTES: Final = 32 * 1024 * 1024
V2: Final = Path("docker/registry/v2")
"""Where a docker-registry has everything, below its root."""


def docker_folder(
    folder: Path, images: int = IMAGES, *, seed: int = 0, layer_bytes: int = LAYER_BYTES, skopeo: bool = True
) -> Served:
    """Fill a registry with images, stop it, and return what it served before.

    *folder* is what the registry has as its root. 300 small images take some twenty seconds of a processor.
    The registry flushes each file: small content is made in memory, where that costs nothing, and copied.
    """
    in_memory = images * layer_bytes < IN_MEMORY_BYTES and MEMORY.is_dir() and not folder.exists()
    if not in_memory:
        return _filled(folder, steps(images, seed=seed, layer_bytes=layer_bytes), skopeo=skopeo)
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="docker-folder-") as work:
        made = _filled(Path(work) / "old", steps(images, seed=seed, layer_bytes=layer_bytes), skopeo=skopeo)
        copy_folder(made.root, folder)
    return replace(made, root=folder)


def _filled(folder: Path, content: Iterable[Step], *, skopeo: bool) -> Served:
    with running(folder) as registry, RegistryClient(registry.host) as client:
        for step in content:
            if step.by_skopeo and skopeo and shutil.which("skopeo"):
                _push_with_skopeo(registry, step)
            else:
                client.do(step)
        client.begin_upload("team/app", b"nobody goes on with this")
        client.begin_upload("never/finished", b"nor with this")
        return served_by(registry, pushed=client.put)


@contextmanager
def running(folder: Path) -> Iterator[DockerRegistry]:
    """Run a docker-registry on a folder: it holds ``docker/registry/v2``, or nothing yet."""
    with (
        tempfile.TemporaryDirectory(prefix="docker-registry-") as work,
        DockerRegistry(Path(work), content=folder) as registry,
    ):
        yield registry


def served_by(registry: DockerRegistry, *, pushed: dict[str, set[str]] | None = None) -> Served:
    """Ask a registry for all that it serves.

    No API lists the manifests of a repository. What is asked for is what *pushed* says, what its folder has
    a name for, and what these name in turn.
    """
    tags: dict[str, dict[str, Digest]] = {}
    manifests: dict[str, frozenset[Digest]] = {}
    gone: dict[str, frozenset[Digest]] = {}
    with RegistryClient(registry.host) as client:
        for name in sorted({*client.repositories(), *(pushed or {})}):
            tags[name] = client.tags(name)
            known = {*map(str, tags[name].values()), *(pushed or {}).get(name, set())}
            known |= _named_by_folders(registry.content, name)
            there = _asked(client, name, known)
            manifests[name] = frozenset(map(Digest.parse, there))
            gone[name] = frozenset(map(Digest.parse, known - there))
    return Served(
        registry.content,
        {name: found for name, found in tags.items() if found},
        {name: found for name, found in manifests.items() if found},
        {name: found for name, found in gone.items() if found},
    )


def cached_docker_folder(
    cache: Path,
    folder: Path,
    images: int = IMAGES,
    *,
    seed: int = 0,
    layer_bytes: int = LAYER_BYTES,
) -> Served:
    """Return a copy of a filled folder, which is filled only if *cache* has none of these parameters.

    Several processes may share a cache. Times stay as they were.
    """
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / f"docker-{images}-{seed}-{layer_bytes}"
    answer = kept.with_suffix(".json")
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answer.exists():
            shutil.rmtree(kept, ignore_errors=True)
            filled = docker_folder(kept, images, seed=seed, layer_bytes=layer_bytes)
            answer.write_text(filled.to_json())
    copy_folder(kept, folder)
    return Served.from_json(answer.read_text(), folder)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder with the times of its files, which share their blocks where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", "-T", source, target], check=True)


def _push_with_skopeo(registry: DockerRegistry, step: Step) -> None:
    for put in step.puts:
        with tempfile.TemporaryDirectory() as work:
            source = _for_skopeo(Path(work) / "image", step.builder, put.descriptor)
            target = f"docker://{registry.host}/{step.repository}:{put.tag}"
            done = subprocess.run(
                [*SKOPEO_COPY, "--preserve-digests", "--dest-tls-verify=false", source, target],
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
        if done.returncode != 0:
            raise RuntimeError(f"skopeo copy {source} {target}: {done.stderr}")


def _for_skopeo(folder: Path, builder: LayoutBuilder, descriptor: Json) -> str:
    """Write an image where skopeo reads it: a layout, or for Docker's types a folder of its own format."""
    if descriptor["mediaType"] in (media_types.OCI_MANIFEST, media_types.OCI_INDEX):
        builder.entries = []
        builder.tag(descriptor, "image")
        return f"oci:{builder.write(folder)}:image"
    folder.mkdir()
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    for digest, content in builder.blobs.items():
        name = digest.partition(":")[2]
        (folder / name).write_bytes(content)
        (folder / f"{name}.manifest.json").write_bytes(content)
    (folder / "manifest.json").write_bytes(builder.blobs[descriptor["digest"]])
    return f"dir:{folder}"


def _named_by_folders(root: Path, repository: str) -> set[str]:
    revisions = root / V2 / "repositories" / repository / "_manifests/revisions"
    return {f"{path.parent.name}:{path.name}" for path in revisions.glob("sha*/*")}


def _asked(client: RegistryClient, repository: str, known: set[str]) -> set[str]:
    """Return which of these the registry serves; what they name is added to *known*."""
    there: set[str] = set()
    waiting = sorted(known)
    while waiting:
        digest = waiting.pop()
        answer = client.get(repository, digest)
        if answer.status != 200:
            continue
        there.add(digest)
        children = {child["digest"] for child in json.loads(answer.body).get("manifests", [])}
        waiting += sorted(children - known)
        known |= children
    return there
