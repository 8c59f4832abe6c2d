"""What counts as a signature of an image, and the tags that companions of images have."""

from __future__ import annotations

import re
from typing import Final

from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest

_COSIGN: Final = re.compile(r"application/vnd\.dev\.cosign\.artifact\.sig\.v[0-9]+\+json")
_NOTATION: Final = "application/vnd.cncf.notary.signature"
# "...bundle.v0.3+json"; the first releases wrote "...bundle+json;version=0.1".
_BUNDLE: Final = re.compile(
    r"application/vnd\.dev\.sigstore\.bundle(\.v[0-9.]+)?\+json(;\s*version=[0-9.]+)?"
)
_PREDICATE: Final = "dev.sigstore.bundle.predicateType"
_SIGNS: Final = "https://sigstore.dev/cosign/sign/"
SIGNATURE_SUFFIX: Final = ".sig"
_COSIGN_TAG: Final = re.compile(
    r"sha256-[0-9a-f]{64}(\.sig|\.att|\.sbom)|sha512-[0-9a-f]{128}(\.sig|\.att|\.sbom)"
)
_REFERRERS_TAG: Final = re.compile(r"(sha256|sha512)-[0-9a-f]{64}")


def is_signature(referrer: Descriptor) -> bool:
    """Tell whether a referrer, as a registry lists it, signs its subject.

    Nothing is verified: this says that somebody signed, not who. A sigstore bundle that says it is an
    attestation of something else (a provenance, a bill of materials) is none.
    """
    kind = referrer.artifact_type or ""
    if _BUNDLE.fullmatch(kind):
        predicate = referrer.annotations.get(_PREDICATE)
        return predicate is None or predicate.startswith(_SIGNS)
    return kind == _NOTATION or _COSIGN.fullmatch(kind) is not None


def cosign_tags(digest: Digest) -> tuple[str, str, str]:
    """Return the tags of an image's signatures, attestations and bills of materials, as cosign names them."""
    stem = f"{digest.algorithm}-{digest.hex}"
    return (stem + SIGNATURE_SUFFIX, stem + ".att", stem + ".sbom")


def is_cosign_tag(tag: str) -> bool:
    """Tell whether a tag is one that :func:`cosign_tags` returns for some image."""
    return _COSIGN_TAG.fullmatch(tag) is not None


def is_referrers_tag(tag: str) -> bool:
    """Tell whether a tag is one that :func:`regmeta.oci.names.referrers_tag` returns for some image."""
    return _REFERRERS_TAG.fullmatch(tag) is not None
