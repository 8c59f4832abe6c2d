"""The catalogue of bad input (docs/internals/hostile-input.md), row 80: rows that another program wrote.

SQLite keeps any value in any column; PostgreSQL refuses what these tests write. What such rows are about
cannot be answered for, but each command says so in one line, and nothing leads out of the store.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import LayoutBuilder
from tests.support.bad_input import ask, check_printed
from tests.support.damaged import Registry

pytestmark = pytest.mark.inconsistent

LIVE = "WHERE name = 'v1' AND ended_at IS NULL"
LAYER = "WHERE id = (SELECT min(blob_id) FROM manifest_blobs WHERE role = 'layer')"
DAMAGE = {
    "label that is no UTF-8": "UPDATE labels SET value = CAST(x'61ff00' AS TEXT)",
    "label with a NUL": "UPDATE labels SET value = 'a' || char(0) || 'b'",
    "label that steers": "UPDATE labels SET value = char(27) || '[2J'",
    "tag that is no UTF-8": f"UPDATE tags SET name = CAST(x'61ff' AS TEXT) {LIVE}",
    "tag that steers": f"UPDATE tags SET name = 'v' || char(27) || '[2J' {LIVE}",
    "repository that is no UTF-8": "UPDATE repositories SET name = CAST(x'61ff' AS TEXT) WHERE name = 'app'",
    "repository that steers": "UPDATE repositories SET name = char(27) || '[2J' WHERE name = 'app'",
    "negative size of a blob": "UPDATE blobs SET size_bytes = -5",
    "negative sizes of a manifest": "UPDATE manifests SET size_bytes = -5, total_size_bytes = -7",
    "digest of no algorithm": "UPDATE manifests SET digest = x'09ff' WHERE id = 1",
    "digest that is text": "UPDATE blobs SET digest = 'sha256:' || id",
    "digest of nothing": f"UPDATE blobs SET digest = x'' {LAYER}",
    "content that is no JSON": "UPDATE manifests SET content = x'ff00'",
    "time that is text": "UPDATE manifests SET pushed_at = 'yesterday'",
    "time after all times": "UPDATE manifests SET pushed_at = 9223372036854775807",
    "kind that is none": "UPDATE manifests SET kind = 'other'",
    "media type that steers": "UPDATE manifests SET media_type = 'a' || char(27) || char(0)",
    "key that leads out": f"UPDATE blobs SET key = '../../canary' {LAYER}",
    "key that is absolute": f"UPDATE blobs SET key = '/etc/hostname' {LAYER}",
}


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE.keys())
def test_row_that_is_damaged_is_answered_in_one_line(
    statement: str, registry: Registry, tmp_path: Path
) -> None:
    registry.sql(statement)
    (Path(registry.settings.home) / "canary").write_bytes(b"canary")
    builder = LayoutBuilder(seed=5)
    builder.tag(builder.image(), "new")
    layout, target = builder.write(tmp_path / "layout"), tmp_path / "exported"
    for arguments in (
        ("status",),
        ("repo", "ls"),
        ("repo", "show", "app"),
        ("tag", "ls", "app"),
        ("tag", "show", "app:v1"),
        ("manifest", "ls", "app"),
        ("manifest", "show", "app:v1"),
        ("export", "app:v1", str(target)),
        ("import", str(layout), "app"),
    ):
        done = ask(registry.settings, *arguments)
        assert done.code in (0, 3, 4, 5), (arguments, done)
        check_printed((done.out + done.err).replace("\t", " "))
        assert done.code == 0 or done.err.count("\n") <= 3, done.err
    if "SET key" in statement:
        assert not target.exists()


def test_key_that_leads_out_of_the_store_is_no_key(registry: Registry, tmp_path: Path) -> None:
    registry.sql(DAMAGE["key that leads out"])
    done = ask(registry.settings, "export", "app:v1", str(tmp_path / "exported"))
    assert done.code == 5, done
    assert "not a key of this store: '../../canary'" in done.err
