"""Commits a second on PostgreSQL, rows only: ``python -m benchmarks.postgresql [--seconds N] [--delay MS]``.

Each commit is what a push of one image of three layers writes: the transactions ``reserve`` and ``ingest``. The
floor is the same rows by the driver alone, in its pipeline mode, with SQL that is written by hand, in the same run
and on the same server, which flushes. With 1, 2, 4 and 8 threads, each with a repository of its own, and with
processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from regmeta.app import migrations_folder
from regmeta.db import Database
from regmeta.ingest import reserve
from regmeta.ingest.commit import CommitPlan, commit
from regmeta.ingest.immutable import TagTerms
from regmeta.ingest.plan import ImageRequest, Lifetimes, PlannedImage, PlannedManifest
from regmeta.maintain import schema
from regmeta.oci.config import Config
from regmeta.oci.digest import Digest
from regmeta.oci.manifest import parse
from tests.support import postgres_server

AT_ONCE = (1, 2, 4, 8)
FLUSHING = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
