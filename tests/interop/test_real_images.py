"""Images of real programs, made on the spot from Debian's packages, go in and come out unchanged."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from regmeta.app import Writing
from tests.interop.test_tools import EXAMPLES, copy, raw_digest, tool
from tests.support.registry import import_all, tags

pytestmark = [
    pytest.mark.interop,
    pytest.mark.soak,
    pytest.mark.parametrize("backend", ["sqlite", "postgresql"]),
]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with busybox for three platforms."""
    for name in ("apt-get", "dpkg-deb", "skopeo", "umoci"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    folder = tmp_path_factory.mktemp("real")
    done = subprocess.run(
        ["bash", EXAMPLES / "build-real-images.sh", "--busybox-only", folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode != 0 and "mirror" in done.stderr.lower():
        pytest.skip(f"no Debian mirror: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder / "real"


def test_busybox_of_three_platforms_keeps_its_digests_and_its_program(
    writing: Writing, real: Path, tmp_path: Path
) -> None:
    import_all(writing, real, "real")
    found = raw_digest(f"oci:{real}:busybox")
    assert str(tags(writing.database, "real")["busybox"]) == found
    shown = f"oci:{writing.settings.store}/repositories/real/_layout:busybox"
    copy(shown, f"oci:{tmp_path}/copy:busybox")
    assert raw_digest(f"oci:{tmp_path}/copy:busybox") == found
    index = json.loads(tool("skopeo", "inspect", "--raw", shown))
    assert {member["platform"]["architecture"] for member in index["manifests"]} == {"amd64", "arm64", "arm"}
    tool("skopeo", "--insecure-policy", "copy", shown, f"oci:{tmp_path}/one:busybox")
    tool("umoci", "unpack", "--rootless", "--image", f"{tmp_path}/one:busybox", tmp_path / "bundle")
    assert (tmp_path / "bundle" / "rootfs" / "bin" / "busybox").is_file()
