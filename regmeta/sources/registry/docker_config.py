"""Docker's ``config.json`` (podman's ``auth.json``), as it is: there is no credentials file of our own."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from regmeta.errors import UsageError
from regmeta.oci import strict_json
from regmeta.sources.registry.credential_helpers import CredentialHelper
from regmeta.sources.registry.credentials import Credential
from regmeta.sources.registry.text import shown

_MAX_SIZE: Final = 1024 * 1024
_HUB_KEY: Final = "https://index.docker.io/v1/"
_HUB: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
# A key may be a URL of an old API. Any other path names a part of a registry, which is not for all of it.
_PATHS: Final = frozenset({"", "v1", "v2"})


def default_path(environment: Mapping[str, str]) -> str:
    """Return where Docker keeps it: ``$DOCKER_CONFIG/config.json``, else ``~/.docker/config.json``."""
    folder = environment.get("DOCKER_CONFIG") or os.path.join(environment.get("HOME", "~"), ".docker")
    return os.path.join(os.path.expanduser(folder), "config.json")


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """Credentials from a file in Docker's format. It is read at each :meth:`get`, which is seldom.

    For one host, in this order: its helper in ``credHelpers``, its entry in ``auths``, ``credsStore``. With
    *must_exist* false a file that is not there holds nothing.
    """

    path: str
    must_exist: bool = True

    def get(self, host: str) -> Credential | None:
        """Return what the file, or a helper that it names, has for *host*.

        Raises:
            UsageError: the file cannot be read, or is not of the format; a helper cannot be run.
            RemoteUnavailable: a helper failed.
        """
        document = self._document()
        name = self._find(document, "credHelpers", host)
        if name is not None:
            return self._ask(name, host)
        entry = self._find(document, "auths", host)
        if entry is not None and (credential := self._credential(entry, host)) is not None:
            return credential
        store = document.get("credsStore")
        return self._ask(store, host) if store else None

    def _document(self) -> dict[str, Any]:
        try:
            with open(self.path, "rb") as file:
                content = file.read(_MAX_SIZE + 1)
        except FileNotFoundError as error:
            if not self.must_exist:
                return {}
            raise self._wrong(str(error.strerror)) from error
        except (OSError, ValueError) as error:
            raise self._wrong(str(getattr(error, "strerror", None) or error)) from error
        if len(content) > _MAX_SIZE:
            raise self._wrong(f"larger than {_MAX_SIZE} bytes")
        try:
            document = strict_json.loads(content)
        except (strict_json.StrictJSONError, RecursionError):
            # What is wrong with it is not said: it may quote a secret.
            raise self._wrong("not a JSON document") from None
        if not isinstance(document, dict):
            raise self._wrong("not a JSON object")
        return document

    def _find(self, document: dict[str, Any], section: str, host: str) -> object | None:
        entries = document.get(section)
        if entries is None:
            return None
        if not isinstance(entries, dict):
            raise self._wrong(f"{section} is not an object")
        wanted = _HUB if host in _HUB else {host, f"{host}:443"}
        for key, value in entries.items():
            if _host_of(key) in wanted:
                return value  # type: ignore[no-any-return]
        return None

    def _credential(self, entry: object, host: str) -> Credential | None:
        """Read one entry of ``auths``; an empty one says that ``credsStore`` knows."""
        if not isinstance(entry, dict):
            raise self._wrong(f"the entry of {host} is not an object")
        fields = {name: entry.get(name) or "" for name in ("auth", "username", "password", "identitytoken")}
        if not all(isinstance(value, str) for value in fields.values()):
            raise self._wrong(f"the entry of {host} holds something that is no text")
        if fields["identitytoken"]:
            return Credential(identity_token=fields["identitytoken"])
        if fields["auth"]:
            try:
                pair = base64.b64decode(fields["auth"], validate=True).decode()
            except (binascii.Error, UnicodeDecodeError, ValueError):
                raise self._wrong(f"the entry of {host} holds an auth that is not base64") from None
            username, colon, secret = pair.partition(":")
            if not colon:
                raise self._wrong(f"the entry of {host} holds an auth without a colon")
            return Credential(username, secret.rstrip("\0"))
        if fields["username"] or fields["password"]:
            return Credential(fields["username"], fields["password"])
        return None

    def _ask(self, helper: object, host: str) -> Credential | None:
        if not isinstance(helper, str):
            raise self._wrong(f"the helper of {host} is not a name")
        return CredentialHelper(helper).get(_HUB_KEY if host in _HUB else host)

    def _wrong(self, what: str) -> UsageError:
        return UsageError(f"{shown(self.path, 1000)}: cannot be used as a credentials file: {what}")


def _host_of(key: str) -> str | None:
    """Return the host that a key of the file stands for, None for a part of a registry."""
    rest = key.lower()
    for scheme in ("https://", "http://"):
        rest = rest.removeprefix(scheme)
    host, _, path = rest.partition("/")
    return host if path.rstrip("/") in _PATHS else None
