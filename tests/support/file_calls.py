"""What is asked of the file system, in order, by path."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import pytest

Call = tuple[str, ...]


class FileCalls:
    """Records calls of ``os`` that make something durable or give it a name.

    Paths are relative to *root*. A call is noted when it has succeeded.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
        self.calls: list[Call] = []
        self._root = os.path.realpath(root)
        for name in ("fsync", "rename", "replace", "link", "unlink", "mkdir"):
            monkeypatch.setattr(os, name, self._recorded(name, getattr(os, name)))

    def note(self, *what: str) -> None:
        """Add something else that happened now."""
        self.calls.append(what)

    def position(self, *wanted: str) -> int:
        """Return where a call is, each part a pattern; it must be there once."""
        found = [i for i, call in enumerate(self.calls) if _matches(call, wanted)]
        assert len(found) == 1, f"{wanted} is {len(found)} times in {self.calls}"
        return found[0]

    def positions(self, *wanted: str) -> list[int]:
        """Return where all such calls are."""
        return [i for i, call in enumerate(self.calls) if _matches(call, wanted)]

    def _recorded(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            folders = [options.get("src_dir_fd", options.get("dir_fd")), options.get("dst_dir_fd")]
            if name == "fsync":
                paths = [os.readlink(f"/proc/self/fd/{arguments[0]}")]
            else:
                given = arguments[: 2 if name in ("rename", "replace", "link") else 1]
                paths = [self._full(path, fd) for path, fd in zip(given, folders, strict=False)]
            result = original(*arguments, **options)
            if all(path == self._root or path.startswith(f"{self._root}/") for path in paths):
                self.calls.append((name, *(os.path.relpath(path, self._root) for path in paths)))
            return result

        return call

    @staticmethod
    def _full(path: str, folder_fd: int | None) -> str:
        if folder_fd is not None:
            return os.path.normpath(os.path.join(os.readlink(f"/proc/self/fd/{folder_fd}"), os.fspath(path)))
        return os.path.realpath(os.fspath(path))


def _matches(call: Call, wanted: tuple[str, ...]) -> bool:
    return len(call) == len(wanted) and all(
        re.fullmatch(pattern, part) for pattern, part in zip(wanted, call, strict=True)
    )
