"""Locks between processes: ``flock`` on a file of their own."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from regmeta import metrics
from regmeta.errors import Locked, StoreUnavailable
from regmeta.store import durable

_FIRST_WAIT_S = 0.0005
_LONGEST_WAIT_S = 0.02


class FileLock:
    """A lock that the threads of this process and other processes respect; not reentrant.

    It ends with the process that holds it, however that ends. On a network file system it is not to be
    trusted: the database and the store's staging area belong on a local disk.
    """

    def __init__(self, path: str, timeout_s: float) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self._thread_lock = threading.Lock()
        self._fd: int | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            Locked: another process held it for longer than the time-out.
            StoreUnavailable: the lock file cannot be opened.
        """
        began = time.perf_counter()
        if not self._thread_lock.acquire(timeout=self.timeout_s):
            raise Locked(f"{self.path}: held for more than {self.timeout_s:g} s by this process")
        try:
            fd = self._open()
            wait_for_lock(fd, self.path, self.timeout_s)
            try:
                metrics.LOCK_WAIT_SECONDS.observe(time.perf_counter() - began, "file")
                yield
            finally:
                fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            self._thread_lock.release()

    def _open(self) -> int:
        if self._fd is None:
            try:
                self._fd = durable.create(self.path, os.O_RDWR, 0o600, None, "database.lock_made")
            except OSError as error:
                raise StoreUnavailable(f"{self.path}: {error.strerror}") from error
        return self._fd


def wait_for_lock(fd: int, path: str, timeout_s: float) -> None:
    """Take an exclusive lock on an open file, waiting at most *timeout_s*.

    Raises:
        Locked: it was held by another for all that time.
    """
    deadline = time.monotonic() + timeout_s
    wait_s = _FIRST_WAIT_S
    while not try_lock(fd):
        if time.monotonic() >= deadline:
            raise Locked(f"{path}: held by another process for more than {timeout_s:g} s")
        time.sleep(wait_s)
        wait_s = min(wait_s * 2, _LONGEST_WAIT_S)


def try_lock(fd: int) -> bool:
    """Take an exclusive lock on an open file if nobody holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
