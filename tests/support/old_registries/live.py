"""A docker-registry at work on a folder, and a thread that pushes to it and deletes from it.

    with LiveRegistry(served.root, seed=3) as live:
        adopt(served.root)
        live.stop()
        adopt(served.root)
    assert tags_of(adopted) == live.pushes.tags

After :meth:`LiveRegistry.stop` nothing is on its way: the record is what the registry has.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from regmeta.oci.digest import Digest
from tests.builders import ARM64, LayoutBuilder, digest_of, tar_layer
from tests.support.old_registries.client import RegistryClient
from tests.support.old_registries.docker import running, served_by
from tests.support.old_registries.served import Served

PAUSE_S: Final = 0.005


@dataclass(slots=True)
class Pushes:
    """What the registry has acknowledged. *tags* and *manifests* are all that it had before as well.

    *pushed* counts pushes of a tag, *deleted* names what was deleted by its digest.
    """

    tags: dict[str, dict[str, Digest]]
    manifests: dict[str, set[Digest]]
    pushed: int = 0
    deleted: dict[str, set[Digest]] = field(default_factory=lambda: defaultdict(set))

    @classmethod
    def after(cls, served: Served) -> Pushes:
        """Begin a record with what a registry serves."""
        return cls(
            defaultdict(dict, {name: dict(tags) for name, tags in served.tags.items()}),
            defaultdict(set, {name: set(digests) for name, digests in served.manifests.items()}),
        )


class LiveRegistry:
    """Pushes new images, moves tags, and deletes images that it pushed, until it is told to stop.

    Tags that were there are moved too; what they named stays. It never deletes an image that was there, nor
    one that an index lists. *pushes_wanted* ends it by itself.
    """

    def __init__(
        self, folder: Path, *, seed: int = 0, pause_s: float = PAUSE_S, pushes_wanted: int | None = None
    ) -> None:
        self._random = random.Random(f"{seed} live")
        self._pause_s = pause_s
        self._wanted = pushes_wanted
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._deletable: list[tuple[str, Digest]] = []
        self._open = ExitStack()
        try:
            self.registry = self._open.enter_context(running(folder))
            self.pushes = Pushes.after(served_by(self.registry))
            self._client = self._open.enter_context(RegistryClient(self.registry.host))
        except BaseException:
            self._open.close()
            raise
        self._thread = threading.Thread(target=self._work, name="live-registry")

    def stop(self) -> Pushes:
        """Stop pushing, wait for the push that is under way, and return the record. The registry stays up.

        Raises:
            RuntimeError: a push or a deletion failed.
        """
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise RuntimeError("the pusher has failed") from self._failure
        return self.pushes

    def wait_for(self, pushes: int, *, timeout_s: float = 60.0) -> None:
        """Wait until so many pushes are acknowledged."""
        waited = threading.Event()
        for _ in range(int(timeout_s / 0.01)):
            if self.pushes.pushed >= pushes or not self._thread.is_alive():
                return
            waited.wait(0.01)
        raise TimeoutError(f"{self.pushes.pushed} of {pushes} pushes in {timeout_s} s")

    def served(self) -> Served:
        """Ask the registry what it serves now."""
        return served_by(self.registry)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._open.close()

    def _work(self) -> None:
        try:
            while not self._stop.wait(self._pause_s):
                self._push()
                if self._random.random() < 0.25:
                    self._delete()
                if self._wanted is not None and self.pushes.pushed >= self._wanted:
                    return
        except BaseException as error:  # noqa: BLE001 - stop() tells it
            self._failure = error

    def _push(self) -> None:
        builder = LayoutBuilder(docker=self._random.random() < 0.3)
        image = builder.image([tar_layer(self._random.randbytes(300)) for _ in range(2)])
        known = sorted(name for name, tags in self.pushes.tags.items() if tags)
        new = f"live/app-{self._random.randrange(8)}"
        repository = self._random.choice(known) if known and self._random.random() < 0.6 else new
        tags = self.pushes.tags[repository]
        tag = f"live-{self.pushes.pushed}"
        if tags and self._random.random() < 0.4:
            tag = self._random.choice(sorted(tags))
        if self._random.random() < 0.2:
            children = [image, builder.image(platform=ARM64, layers=[self._random.randbytes(64)])]
            image = builder.index(children)
        else:
            children = []
            self._deletable.append((repository, digest_of(image)))
        self._client.push(repository, builder, image, tag)
        tags[tag] = digest_of(image)
        self.pushes.manifests[repository] |= {digest_of(each) for each in (image, *children)}
        self.pushes.pushed += 1

    def _delete(self) -> None:
        if not self._deletable:
            return
        repository, digest = self._deletable.pop(self._random.randrange(len(self._deletable)))
        self._client.delete(repository, str(digest))
        tags = self.pushes.tags[repository]
        for tag in [name for name, named in tags.items() if named == digest]:
            del tags[tag]
        self.pushes.manifests[repository].discard(digest)
        self.pushes.deleted[repository].add(digest)
