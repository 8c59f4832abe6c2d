"""Who asks for what: the words that go with each log line, each database connection and each span.

Fields are kept in a context variable, so that each request of a process has its own. Threads get them when
their work is handed to them by :class:`regmeta.threads.Threads`.

An :class:`Observer` is told of spans: steps that begin and end. Without one a span costs one comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final, Protocol

LONGEST_APPLICATION_NAME: Final = 63  # [bytes] PostgreSQL cuts what is longer
_NOTHING: Final[AbstractContextManager[None]] = nullcontext()

_fields: ContextVar[Mapping[str, str]] = ContextVar("regmeta_fields", default=MappingProxyType({}))
_observers: tuple[Observer, ...] = ()


class Observer(Protocol):
    """Somebody who is told of spans."""

    def span(self, name: str, fields: Mapping[str, str]) -> AbstractContextManager[object]:
        """Return what is entered when the step begins, and left when it ends or raises."""


def fields() -> Mapping[str, str]:
    """Return the words of this context: *request_id*, *command*, *ingest*, *repository*, *digest*."""
    return _fields.get()


def bind(**words: str) -> None:
    """Add words for the rest of this context."""
    _fields.set({**_fields.get(), **words})


@contextmanager
def bound(**words: str) -> Iterator[None]:
    """Add words while the block runs."""
    token = _fields.set({**_fields.get(), **words})
    try:
        yield
    finally:
        _fields.reset(token)


def application_name() -> str:
    """Return what PostgreSQL shows of a connection: ``regmeta COMMAND REQUEST_ID``, as far as it is known.

    The request's id comes whole: of a command whose name is too long the end goes.
    """
    words = _fields.get()
    request_id = words.get("request_id", "")[: LONGEST_APPLICATION_NAME - len("regmeta ")]
    room = LONGEST_APPLICATION_NAME - len(request_id) - 1
    name = f"regmeta {words.get('command', '')}".rstrip()[:room].rstrip()
    return f"{name} {request_id}".rstrip()


def observe(observer: Observer) -> None:
    """Tell *observer* of every span from now on."""
    global _observers
    _observers = (*_observers, observer)


def forget(observer: Observer) -> None:
    """Tell *observer* of nothing more."""
    global _observers
    _observers = tuple(each for each in _observers if each is not observer)


def span(name: str, **words: str) -> AbstractContextManager[object]:
    """Return a context manager that lasts as long as a step does; *words* say more than the context."""
    if not _observers:
        return _NOTHING
    return _observed(name, {**_fields.get(), **words})


@contextmanager
def _observed(name: str, words: Mapping[str, str]) -> Iterator[None]:
    observers = _observers
    if len(observers) == 1:
        with observers[0].span(name, words):
            yield
        return
    from contextlib import ExitStack

    with ExitStack() as stack:
        for observer in observers:
            stack.enter_context(observer.span(name, words))
        yield
