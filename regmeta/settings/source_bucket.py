"""How the bucket of an old registry is reached, which is adopted (``regmeta adopt s3://...``).

As the store's bucket is: by the table ``[object_store]`` and ``AWS_*`` in the environment. Where it lies with
another server, or takes other keys, the environment says so in variables of its own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from regmeta.errors import UsageError
from regmeta.settings.object_store import ObjectStore
from regmeta.settings.values import duration

if TYPE_CHECKING:
    from regmeta.object_storage.reach import Reach

VARIABLES: Final = tuple(
    f"REGMETA_ADOPT_{name}"
    for name in ("ENDPOINT", "REGION", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")
)
"""Of one old registry, and so no settings."""


def source_reach(settings: ObjectStore) -> Reach:
    """Return how the bucket of an old registry is reached.

    Raises:
        UsageError: the endpoint is no URL of a server, or there is one of two keys.
    """
    from regmeta.object_storage.reach import Keys, Reach, is_endpoint  # only who has a bucket waits for it

    endpoint, region, key, secret, token = (os.environ.get(name, "") for name in VARIABLES)
    if endpoint and not is_endpoint(endpoint):
        raise UsageError(f"{VARIABLES[0]}: is no http(s) URL of a server")  # it may hold a password
    if bool(key) != bool(secret) or (token and not key):
        raise UsageError(f"{VARIABLES[2]}, {VARIABLES[3]}: there is one of them: set both or neither")
    return Reach(
        endpoint=endpoint or settings.endpoint,
        region=region or settings.region,
        virtual_hosted=settings.virtual_hosted,
        retry_for=duration(settings.retry_for),
        read_timeout=duration(settings.read_timeout),
        keys=Keys(key, secret, token) if key else None,
    )
