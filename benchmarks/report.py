"""Print measurements as tables, and compare them with targets."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.processes import Sample

MIB = 1 << 20


@dataclass(frozen=True)
class Target:
    """A limit on a measured value, in the words and the unit of the printed line."""

    what: str
    value: float
    limit: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether the value is within the limit."""
        return self.value <= self.limit


def paired_ratio(samples: Sequence[Sample], reference: Sequence[Sample]) -> float:
    """Return the median of the wall-time ratios of samples taken in the same round."""
    pairs = zip(samples, reference, strict=True)
    return statistics.median(sample.wall_s / other.wall_s for sample, other in pairs)


def print_table(title: str, cases: dict[str, list[Sample]], reference: str, reference_title: str) -> None:
    """Print one line a case; the ratio is to the case `reference`, pair by pair.

    Wall is min / median / max in seconds, CPU the median in seconds, memory the greatest in MiB.
    """
    width = max(len(name) for name in cases)
    print(f"\n{title}")
    heads = f"{'min':>8} {'median':>8} {'max':>8} {'CPU':>8} {'x ' + reference_title:>10}"
    print(f"{'case':{width}} {heads} {'RSS MiB':>8}")
    for name, samples in cases.items():
        walls = [sample.wall_s for sample in samples]
        cpu_s = statistics.median(sample.cpu_s for sample in samples)
        peak = max(sample.peak_rss_bytes for sample in samples)
        ratio = paired_ratio(samples, cases[reference])
        memory = f"{peak / MIB:8.0f}" if peak else f"{'-':>8}"
        walls_text = f"{min(walls):8.3f} {statistics.median(walls):8.3f} {max(walls):8.3f}"
        print(f"{name:{width}} {walls_text} {cpu_s:8.3f} {ratio:10.2f} {memory}")


def print_targets(targets: Sequence[Target]) -> int:
    """Print whether each target is met; return the exit code, 0 or 1 (a target was missed)."""
    for target in targets:
        verdict = "met" if target.met else "MISSED"
        value, limit = f"{target.value:.2f} {target.unit}", f"{target.limit:g} {target.unit}"
        print(f"{verdict:7} {target.what}: {value}, target <= {limit}")
    return 0 if all(target.met for target in targets) else 1
