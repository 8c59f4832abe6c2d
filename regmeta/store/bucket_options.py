"""How a bucket is reached; see ``regmeta.settings.object_store``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

MIB: Final = 1024 * 1024
_ENDPOINT: Final = re.compile(
    r"https?://(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/[!-~]*)?"
)


@dataclass(frozen=True, slots=True)
class BucketOptions:
    """The settings of one bucket."""

    endpoint: str = ""
    region: str = ""
    virtual_hosted: bool = False
    part_bytes: int = 8 * MIB
    parts_at_once: int = 4  # of all uploads of a store that is open
    requests_at_once: int = 8
    retry_for: timedelta = timedelta(seconds=60)
    read_timeout: timedelta = timedelta(seconds=30)
    conditional_put: bool = True
    checksums: bool = True


def is_endpoint(text: str) -> bool:
    """Tell whether a text is the http(s) URL of a server, with a host and without a user."""
    return _ENDPOINT.fullmatch(text) is not None
