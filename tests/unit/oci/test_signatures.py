"""What is a signature, and under which tags companions are kept."""

from __future__ import annotations

import pytest

from regmeta.oci import media_types
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.names import is_tag, referrers_tag
from regmeta.oci.signatures import cosign_tags, is_cosign_tag, is_referrers_tag, is_signature

DIGESTS = [Digest.of(b"x"), Digest.of(b"x", "sha512")]


@pytest.mark.parametrize(
    ("artifact_type", "predicate", "expected"),
    [
        ("application/vnd.dev.cosign.artifact.sig.v1+json", None, True),
        ("application/vnd.dev.cosign.artifact.sbom.v1+json", None, False),
        ("application/vnd.cncf.notary.signature", None, True),
        ("application/vnd.dev.sigstore.bundle.v0.3+json", None, True),
        ("application/vnd.dev.sigstore.bundle+json;version=0.2", None, True),
        ("application/vnd.dev.sigstore.bundle.v0.3+json", "https://sigstore.dev/cosign/sign/v1", True),
        ("application/vnd.dev.sigstore.bundle.v0.3+json", "https://slsa.dev/provenance/v1", False),
        ("application/vnd.dev.sigstore.bundle.v0.3+jsonx", None, False),
        ("application/spdx+json", None, False),
        (None, None, False),
    ],
)
def test_signature_is_told_by_its_type(
    artifact_type: str | None, predicate: str | None, expected: bool
) -> None:
    annotations = {} if predicate is None else {"dev.sigstore.bundle.predicateType": predicate}
    listed = Descriptor(
        media_types.OCI_MANIFEST, Digest.of(b"x"), 1, annotations, artifact_type=artifact_type
    )

    assert is_signature(listed) is expected


@pytest.mark.parametrize("digest", DIGESTS)
def test_companions_have_the_names_that_are_looked_for(digest: Digest) -> None:
    signature, attestation, materials = cosign_tags(digest)

    assert signature == f"{digest.algorithm}-{digest.hex}.sig"
    assert attestation == f"{digest.algorithm}-{digest.hex}.att"
    assert materials == f"{digest.algorithm}-{digest.hex}.sbom"
    assert all(is_cosign_tag(tag) for tag in cosign_tags(digest))
    assert is_referrers_tag(referrers_tag(digest))
    assert is_tag(referrers_tag(digest))


def test_list_of_referrers_of_a_long_digest_has_a_short_name() -> None:
    digest = DIGESTS[1]

    assert referrers_tag(digest) == f"sha512-{digest.hex[:64]}"
