"""Credential helpers: Docker's ``docker-credential-NAME`` programs, and callables of installed packages."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

from regmeta.errors import RemoteUnavailable, UsageError
from regmeta.oci import strict_json
from regmeta.sources.registry.credentials import Credential
from regmeta.sources.registry.text import shown

GROUP: Final = "regmeta.credential_helpers"
"""Entry points of this group are callables: from a host to a :class:`Credential`, or to None."""

_TIMEOUT_S: Final = 30.0
_MAX_OUTPUT: Final = 64 * 1024
_NAME_RE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# What the helpers of Docker print, and exit with 1, when they have nothing for the host.
_NOT_FOUND: Final = b"credentials not found"
# The user name by which they say that the secret is an identity token.
_IDENTITY: Final = "<token>"


@dataclass(frozen=True, slots=True)
class CredentialHelper:
    """A credential source by name: an entry point of :data:`GROUP`, else the program of that name."""

    name: str
    timeout_s: float = _TIMEOUT_S

    def get(self, host: str) -> Credential | None:
        """Ask it what to show to *host*.

        Raises:
            UsageError: there is no such helper, or it answers something else.
            RemoteUnavailable: it failed, or took longer than *timeout_s*.
        """
        if _NAME_RE.fullmatch(self.name) is None:
            raise UsageError(f"{shown(self.name)!r} is not the name of a credential helper")
        for point in metadata.entry_points(group=GROUP, name=self.name):
            return _ask_plugin(self.name, point, host)
        return _ask_program(f"docker-credential-{self.name}", host, self.timeout_s)


def _ask_plugin(name: str, point: metadata.EntryPoint, host: str) -> Credential | None:
    try:
        credential: Any = point.load()(host)
    except Exception as error:  # noqa: BLE001 - another's code; its message may hold a secret
        raise RemoteUnavailable(
            f"{host}: the credential helper {name} failed: {type(error).__name__}"
        ) from None
    if credential is not None and not isinstance(credential, Credential):
        raise UsageError(f"{host}: the credential helper {name} returns no Credential")
    return credential


def _ask_program(program: str, host: str, timeout_s: float) -> Credential | None:
    output, status = _run(program, host, timeout_s)
    if status != 0:
        if _NOT_FOUND in output:
            return None
        raise RemoteUnavailable(f"{host}: {program} failed with status {status}")
    try:
        document = strict_json.loads(output)
        username, secret = document["Username"], document["Secret"]
    except (strict_json.StrictJSONError, KeyError, TypeError):
        raise UsageError(f"{host}: {program} does not answer with a user name and a secret") from None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise UsageError(f"{host}: {program} does not answer with a user name and a secret")
    if username == _IDENTITY:
        return Credential(identity_token=secret)
    return Credential(username, secret)


def _run(program: str, host: str, timeout_s: float) -> tuple[bytes, int]:
    """Run it with *host* on its standard input; return what it prints, and its exit status."""
    try:
        # A session of its own, so that what it starts can be ended with it.
        process = subprocess.Popen(  # noqa: S603 - a checked name, no shell
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise UsageError(f"{host}: cannot run the credential helper {program}: {error.strerror}") from error
    assert process.stdin is not None
    assert process.stdout is not None
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        _kill(process)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    with process:
        try:
            with contextlib.suppress(BrokenPipeError):  # Some do not care for the host.
                process.stdin.write(host.encode())
                process.stdin.close()
            output = process.stdout.read(_MAX_OUTPUT + 1)
            if len(output) > _MAX_OUTPUT:
                _kill(process)
            status = process.wait()
        finally:
            timer.cancel()
            _kill(process)
    if is_late.is_set():
        raise RemoteUnavailable(f"{host}: {program} did not answer in {timeout_s:g} s")
    if len(output) > _MAX_OUTPUT:
        raise UsageError(f"{host}: {program} answers with more than {_MAX_OUTPUT} bytes")
    return output, status


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
