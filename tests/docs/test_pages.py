"""Pages that are made from the code, or name parts of it, are as the code is."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
ZOT: Final = ROOT / "docs" / "zot.md"
NAMED: Final = sorted(set(re.findall(r"`((?:query|ingest|maintain)\.[\w.]+)`", ZOT.read_text())))


def test_page_of_the_query_api_is_what_the_docstrings_say() -> None:
    done = subprocess.run(
        [sys.executable, "docs/reference.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_page_about_zot_names_many_calls() -> None:
    assert len(NAMED) >= 15


@pytest.mark.parametrize("name", NAMED)
def test_call_that_the_page_about_zot_names_exists(name: str) -> None:
    module, _, function = f"regmeta.{name}".rpartition(".")
    assert callable(getattr(importlib.import_module(module), function))
