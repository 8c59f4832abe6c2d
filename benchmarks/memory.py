"""Measure the peak memory of an import whose one layer is huge (4 GiB unless told otherwise).

The layer is a real file, not a sparse one: a random block, repeated. It needs twice its size on the
disk, once for the layout and once for the imported object.

Usage: python -m benchmarks.memory --command regmeta --work DIR
"""

import argparse
import itertools
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks import adapter
from benchmarks.generate import BLOCK_BYTES, MEDIA_LAYER, PLATFORMS, LayoutWriter, tar_layer
from benchmarks.processes import measure
from benchmarks.report import MIB, Target, print_targets

GIB: Final = 1 << 30
LIMIT_MIB: Final = 150.0


def write_layout(dest: Path, layer_bytes: int) -> None:
    """Write a layout of one image, img-000, with one layer of `layer_bytes`."""
    writer = LayoutWriter(dest)
    blocks = itertools.repeat(random.Random("memory").randbytes(BLOCK_BYTES))
    layer = writer.add_blob(MEDIA_LAYER, tar_layer("huge", layer_bytes, blocks))
    writer.tag("img-000", writer.add_image("img-000", 0, PLATFORMS[0], [layer]))
    print(writer.finish(), flush=True)


def run(command: str, layer_bytes: int, work: Path) -> int:
    """Import the layout below `work` with `command`; return 1 if it took too much memory."""
    layout, environment = work / "layout", adapter.cli_environment(work / "home")
    write_layout(layout, layer_bytes)
    measure(adapter.cli_init(command), environment)
    sample = measure(adapter.cli_import(command, layout, "bench"), environment)
    print(f"wall {sample.wall_s:.2f} s, CPU {sample.cpu_s:.2f} s")
    what = f"peak RSS, layer of {layer_bytes / GIB:g} GiB"
    return print_targets([Target(what, sample.peak_rss_bytes / MIB, LIMIT_MIB, "MiB")])


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description="Peak memory of importing a huge layer.")
    parser.add_argument("--command", default="regmeta", help="the regmeta command")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--layer-gib", type=int, default=4, help="at most 7: a tar header's limit")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="memory-", dir=arguments.work.resolve()))
    try:
        return run(arguments.command, arguments.layer_gib * GIB, work)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
