"""Asking a tree about many files, for as many at once as it is good for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from regmeta.threads import Threads

_T = TypeVar("_T")
_R = TypeVar("_R")


def each(at_once: int, function: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[tuple[_T, _R]]:
    """Call *function* for each of *items*, and give both in their order.

    A folder answers one thread as fast as many; of a bucket each answer is a round trip.
    """
    if at_once == 1:
        for item in items:
            yield item, function(item)
        return
    kept = list(items)
    with Threads(at_once, thread_name_prefix="regmeta-storage") as threads:
        yield from zip(kept, threads.map(function, kept), strict=True)
