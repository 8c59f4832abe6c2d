"""References to images of remote registries: a host, a repository in it, a tag or a digest.

    quay.io/org/app:1.2            docker.io/alpine              http://[::1]:5000/app@sha256:...

A name without a host means something else to every tool (``alpine`` is Docker Hub's to some, and
localhost's to others), so it is refused.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

from regmeta.errors import InvalidDigest, InvalidName
from regmeta.oci import names
from regmeta.oci.digest import Digest

DOCKER_HUB: Final = "docker.io"
_DOCKER_HUB_NAMES: Final = frozenset({DOCKER_HUB, "index.docker.io"})
_DOCKER_HUB_API: Final = "registry-1.docker.io"  # docker.io itself is a web site
_MAX_LENGTH: Final = 1024  # [characters] host, repository, tag and digest at their longest

_PREFIXES: Final[tuple[tuple[str, Literal["https", "http"]], ...]] = (
    ("docker://", "https"),  # as skopeo writes them (containers-transports(5))
    ("https://", "https"),
    ("http://", "http"),
)
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = rf"(?P<name>{_LABEL}(?:\.{_LABEL})*)"
_V6: Final = r"\[(?P<v6>[0-9a-f:.]+)\]"
_HOST: Final = re.compile(rf"(?:{_NAME}|{_V6})(?::(?P<port>[0-9]{{1,5}}))?")
_MAX_HOST_LENGTH: Final = 253  # [characters] RFC 1035


@dataclass(frozen=True, slots=True)
class RemoteReference:
    """An image, or a whole repository, of a remote registry.

    Neither *tag* nor *digest* need be given: what that means is the caller's to say.
    """

    scheme: Literal["https", "http"]
    host: str  # as it is shown: lower case, with the port if one was given
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> RemoteReference:
        """Read ``[https://|http://|docker://]HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]``.

        A tag beside a digest is kept; the digest decides what is meant.

        Raises:
            InvalidName: it is not of that form, names no host, or carries credentials (which are not
                repeated in the message).
        """
        if len(text) > _MAX_LENGTH:
            raise InvalidName(f"not a reference: {text[:100]!r} and {len(text) - 100} characters more")
        scheme, rest, has_scheme = _split_scheme(text)
        first, slash, path = rest.partition("/")
        if slash and "@" in first:
            raise InvalidName("a reference does not carry credentials: log in, or name a credentials file")
        if not has_scheme and not _looks_like_a_host(first, slash):
            raise InvalidName(
                f"{text[:300]!r} names no registry; write for example {DOCKER_HUB}/library/{_example(rest)}"
            )
        if not path:
            raise InvalidName(f"{text[:300]!r} names no repository")
        host = _host(first, text)
        try:
            reference = names.Reference.parse(path)
        except (InvalidName, InvalidDigest) as error:
            raise InvalidName(f"{error} (in {text[:300]!r})") from None
        repository = reference.repository
        if host == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        return cls(scheme, host, repository, reference.tag, reference.digest)

    @property
    def api_url(self) -> str:
        """The base URL of the registry's API, without a slash at its end."""
        return f"{self.scheme}://{_DOCKER_HUB_API if self.host == DOCKER_HUB else self.host}"

    def __str__(self) -> str:
        return f"{self.host}/{names.Reference(self.repository, self.tag, self.digest)}"


def _split_scheme(text: str) -> tuple[Literal["https", "http"], str, bool]:
    for prefix, scheme in _PREFIXES:
        if text.startswith(prefix):
            # docker:// is written before names without a host too, so it does not make one of the first part.
            return scheme, text.removeprefix(prefix), prefix != "docker://"
    return "https", text, False


def _looks_like_a_host(first: str, slash: str) -> bool:
    return bool(slash) and ("." in first or ":" in first or first == "localhost")


def _host(text: str, whole: str) -> str:
    """Return a host with its port, checked and in lower case."""
    # Some letters beyond ASCII become ASCII in lower case, and then are another host.
    found = _HOST.fullmatch(text.lower()) if text.isascii() else None
    if found is None or len(text) > _MAX_HOST_LENGTH or not _is_port(found["port"]):
        raise InvalidName(f"not a host: {text[:300]!r} (in {whole[:300]!r})")
    if found["v6"] is not None:
        try:
            ipaddress.IPv6Address(found["v6"])
        except ValueError:
            raise InvalidName(f"not an IPv6 address: {text[:300]!r} (in {whole[:300]!r})") from None
    host = found[0]
    return DOCKER_HUB if host in _DOCKER_HUB_NAMES else host


def _is_port(text: str | None) -> bool:
    return text is None or 0 < int(text) < 65536


def _example(rest: str) -> str:
    return rest if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,60}(?::[\w.-]{1,40})?", rest, re.ASCII) else "NAME"
