"""Names: repositories, tags and references (distribution-spec, "Pulling manifests")."""

from __future__ import annotations

import re
from dataclasses import dataclass

from regmeta.errors import InvalidDigest, InvalidName
from regmeta.oci.digest import Digest

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
MAX_REPOSITORY_LENGTH = 255  # [characters], as clients limit it


def repository_name(text: str) -> str:
    """Return *text* if it names a repository.

    Raises:
        InvalidName: it does not.
    """
    if not is_repository(text):
        raise InvalidName(f"not a repository name: {text[:300]!r}")
    return text


def is_repository(text: str) -> bool:
    """Tell whether *text* is of the grammar of repository names."""
    return len(text) <= MAX_REPOSITORY_LENGTH and _REPOSITORY.fullmatch(text) is not None


def tag_name(text: str) -> str:
    """Return *text* if it is a tag.

    Raises:
        InvalidName: it is not.
    """
    if not _TAG.fullmatch(text):
        raise InvalidName(f"not a tag: {text[:200]!r}")
    return text


def is_tag(text: str) -> bool:
    """Tell whether *text* is of the grammar of tags."""
    return _TAG.fullmatch(text) is not None


def ref_name_tag(ref_name: str) -> str:
    """Return the tag that a ref name is, or ends with (``docker.io/library/busybox:1.36``).

    Raises:
        InvalidName: it is neither. A digest is none: its hex is of the grammar of tags, and was never meant
            as one.
    """
    tag = ref_name.rpartition(":")[2]
    if not is_tag(tag) or _is_digest(ref_name.rpartition("@")[2]):
        raise InvalidName(f"not a tag: {ref_name[:200]!r}")
    return tag


def image_name(repository: str, reference: str) -> str:
    """Return an image's name from its repository, whatever that is called, and a tag or a digest."""
    return f"{repository}{'@' if ':' in reference else ':'}{reference}"


def referrers_tag(digest: Digest) -> str:
    """Return the tag of the list of referrers where a registry has no API for it.

    See distribution-spec, "Referrers Tag Schema".
    """
    return f"{digest.algorithm[:32]}-{digest.hex[:64]}"


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository, and a tag or a digest or neither in it."""

    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``repository``, ``repository:tag``, ``repository@digest`` or all three.

        A tag beside a digest is kept; the digest decides what is meant.

        Raises:
            InvalidName: the repository or the tag is not of the grammar.
            InvalidDigest: what stands after ``@`` is not a digest.
        """
        rest, at, digest_text = text.partition("@")
        digest = None
        if at:
            try:
                digest = Digest.parse(digest_text)
            except InvalidDigest as error:
                raise InvalidDigest(f"{error} (in the reference {text[:300]!r})") from None
        # A colon after the last slash starts a tag.
        head, slash, last = rest.rpartition("/")
        name, colon, tag = last.partition(":")
        return cls(
            repository_name(head + slash + name),
            tag_name(tag) if colon else None,
            digest,
        )

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.repository}{tag}{digest}"


def _is_digest(text: str) -> bool:
    try:
        Digest.parse(text)
    except InvalidDigest:
        return False
    return True
