"""Threads that know whose work they do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Threads(ThreadPoolExecutor):
    """A pool whose threads run each call in the context of who handed it in (:mod:`regmeta.tracing`)."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Hand in a call; ``map`` does the same for each of its own."""
        context = copy_context()
        return super().submit(lambda: context.run(fn, *args, **kwargs))
