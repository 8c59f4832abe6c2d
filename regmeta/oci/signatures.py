"""What counts as a signature of an image, and the tags that companions of images have."""

from __future__ import annotations

import re
from typing import Final, Literal

from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest

Form = Literal["cosign", "notation", "bundle"]
"""What an artifact that signs its subject is: cosign's, notation's, or a sigstore bundle."""

COSIGN: Final = "application/vnd.dev.cosign.artifact.sig"
NOTATION: Final = "application/vnd.cncf.notary.signature"
BUNDLE: Final = "application/vnd.dev.sigstore.bundle"
_COSIGN: Final = re.compile(re.escape(COSIGN) + r"\.v[0-9]+\+json")
# "...bundle.v0.3+json"; the first releases wrote "...bundle+json;version=0.1".
_BUNDLE: Final = re.compile(re.escape(BUNDLE) + r"(\.v[0-9.]+)?\+json(;[ \t]*version=[0-9.]+)?")
PREDICATE: Final = "dev.sigstore.bundle.predicateType"
"""The annotation of a sigstore bundle that says what it states of its subject."""
SIGNS: Final = "https://sigstore.dev/cosign/sign/"
"""How the predicate of a bundle that is a signature begins."""
SIGNATURE_SUFFIX: Final = ".sig"
_COSIGN_TAG: Final = re.compile(
    r"sha256-[0-9a-f]{64}(\.sig|\.att|\.sbom)|sha512-[0-9a-f]{128}(\.sig|\.att|\.sbom)"
)
_REFERRERS_TAG: Final = re.compile(r"(sha256|sha512)-[0-9a-f]{64}")


def form_of(artifact_type: str | None, predicate: str | None) -> Form | None:
    """Return what form of signature an artifact of a type is, None if it is no signature.

    Nothing is verified: this says that somebody signed, not who. A sigstore bundle whose predicate says that
    it is an attestation of something else (a provenance, a bill of materials) is none.
    """
    kind = artifact_type or ""
    if kind == NOTATION:
        return "notation"
    if _COSIGN.fullmatch(kind):
        return "cosign"
    if _BUNDLE.fullmatch(kind) and (predicate is None or predicate.startswith(SIGNS)):
        return "bundle"
    return None


def is_signature(referrer: Descriptor) -> bool:
    """Tell whether a referrer, as a registry lists it, signs its subject; see :func:`form_of`."""
    return form_of(referrer.artifact_type, referrer.annotations.get(PREDICATE)) is not None


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
