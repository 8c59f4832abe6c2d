"""What the conversion makes of Docker's example is an image that goes in like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

from regmeta.app import Writing
from regmeta.oci.conversion import convert_tree
from regmeta.oci.descriptor import Descriptor
from regmeta.oci.digest import Digest
from tests.support.registry import import_all, tags

EXAMPLE: Final = Path(__file__).parents[3] / "examples" / "sample-docker"


def test_converted_example_is_taken_in_whole(writing: Writing, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    shutil.copytree(EXAMPLE, layout)
    index = json.loads((layout / "index.json").read_bytes())
    expected = set()
    for listed in index["manifests"]:
        root = Descriptor.parse(listed, "index.json")
        converted = convert_tree(root, _path(layout, root.digest).read_bytes(), lambda of: _read(layout, of))
        for old, new in converted.items():
            _path(layout, old).unlink()
            _path(layout, new.descriptor.digest).write_bytes(new.content)
        became = converted[root.digest].descriptor
        listed |= {"mediaType": became.media_type, "digest": str(became.digest), "size": became.size_bytes}
        expected.add(became.digest)
    (layout / "index.json").write_text(json.dumps(index))

    import_all(writing, layout)

    assert set(tags(writing.writer.database).values()) == expected


def _path(layout: Path, digest: Digest) -> Path:
    return layout / "blobs" / digest.algorithm / digest.hex


def _read(layout: Path, descriptor: Descriptor) -> bytes:
    return _path(layout, descriptor.digest).read_bytes()
