"""Verification: where its checkpoint is, and what it looks at."""

from __future__ import annotations

from pathlib import Path

from regmeta.app import open_for_reading
from regmeta.app.checkpoints import FileCheckpoint
from regmeta.maintain.progress import Progress
from regmeta.maintain.verify.data import Subset
from regmeta.maintain.verify.run import Options, VerifyReport
from regmeta.maintain.verify.run import verify as run
from regmeta.settings import Settings

CHECKPOINT_NAME = "verify.checkpoint.json"


def verify(
    settings: Settings,
    progress: Progress,
    *,
    read_data: str | None = None,
    jobs: int = 2,
    rate_bytes_per_s: int | None = None,
    mark: bool = False,
    restart: bool = False,
) -> VerifyReport:
    """Verify a registry while it is in use; see ``maintain.verify.run``.

    Raises:
        UsageError: *read_data* is not ``all``, ``n/t`` or ``x%``.
        IdentityMismatch, SchemaMismatch, Unavailable: it cannot be opened, or not be read.
    """
    subset = None if read_data is None else Subset.parse(read_data)
    checkpoint = FileCheckpoint(str(Path(settings.home) / CHECKPOINT_NAME))
    with open_for_reading(settings, check_store=True) as registry:
        if restart:
            checkpoint.clear()
        show_layouts = settings.layouts == "all"
        options = Options(subset, jobs, rate_bytes_per_s, mark, show_layouts, registry.store.host)
        return run(registry.database, registry.store, options, checkpoint, progress)
