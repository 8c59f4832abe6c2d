"""Open the source that a path names."""

from __future__ import annotations

import os
import stat
from typing import Final

from regmeta.errors import InvalidSource
from regmeta.sources import Source
from regmeta.sources.archive import LayoutArchive
from regmeta.sources.files import unusable
from regmeta.sources.layout import LayoutDirectory

# As skopeo writes them (containers-transports(5)). What the path is decides; these are taken off.
_PREFIXES: Final = ("oci:", "oci-archive:")


def open_source(path: str) -> Source:
    """Open the OCI image layout at *path*: a directory, or an uncompressed tar file.

    Raises:
        InvalidSource: there is nothing there, or it is neither.
    """
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            path = path.removeprefix(prefix)
            break
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise unusable(path, error) from error
    if stat.S_ISDIR(mode):
        return LayoutDirectory(path)
    if stat.S_ISREG(mode):
        return LayoutArchive(path)
    raise InvalidSource(f"{path}: neither a directory nor a regular file")
