"""An image that is here without a tag: kept for another while, with no request to any registry."""

from __future__ import annotations

from typing import NoReturn

from regmeta.db import Database
from regmeta.errors import InputError, IntegrityError, MissingContent
from regmeta.ingest.local_registry import LocalRegistry
from regmeta.ingest.plan import ImageGroup, ImageRequest
from regmeta.oci import manifest
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from regmeta.oci.names import Reference
from regmeta.query import tree
from regmeta.sync import platforms
from regmeta.sync.policy import Policy
from regmeta.sync.unread import Unread


def is_kept(registry: LocalRegistry, database: Database, policy: Policy, name: str, digest: Digest) -> bool:
    """Tell whether a repository has a manifest with all that *policy* wants of it, and renew its lease.

    No tag keeps it, so it may go at any time: it is relied on only after that.

    Raises:
        Unavailable, Locked: it could not be found out.
    """

    def nothing() -> NoReturn:
        raise MissingContent(f"{name}@{digest}: something of it is not here")

    try:
        content = tree.content(database, Reference(name, None, digest))
        root = manifest.parse(content, digest)
        source = registry.local_first(Unread(nothing, name))
        request = ImageRequest(source, Descriptor(root.media_type, digest, len(content)), name)
        wants = platforms.wants_of(policy.platforms)
        [outcome] = registry.commit_groups([ImageGroup(registry.copy_manifest(request, wants=wants))])
    except (InputError, IntegrityError):
        return False
    return outcome.image.error is None
