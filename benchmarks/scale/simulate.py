"""A discrete-event simulation: pushes of many processes that wait for the locks of their repositories.

A commit holds its repository's lock from the first row lock to the answer of COMMIT. Repositories are chosen
with a Zipf distribution, pushes arrive at random. What comes out is how long a push waits for others, which
no average shows.
"""

import random
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Load:
    """What arrives, and how long a commit holds its lock."""

    pushes_per_s: float
    repositories: int
    skew: float  # of Zipf: 0 is even, 1 is usual of names
    hold_s: float
    seconds: float = 30.0


@dataclass(frozen=True)
class Waits:
    """How long pushes waited for their repository [s], and how busy the busiest one was."""

    p50_s: float
    p99_s: float
    longest_s: float
    busiest: float  # share of the time that its lock is wanted; 1 and more: a queue that grows
    busiest_pushes_per_s: float


def simulate(load: Load, seed: int = 0) -> Waits:
    """Run it; the same seed gives the same waits."""
    chance = random.Random(seed)
    shares = list(accumulate(1 / (rank + 1) ** load.skew for rank in range(load.repositories)))
    free_at = [0.0] * load.repositories
    held_s = [0.0] * load.repositories
    counts = [0] * load.repositories
    waits, now = [], 0.0
    while now < load.seconds:
        now += chance.expovariate(load.pushes_per_s)
        of = bisect(shares, chance.random() * shares[-1])
        # A commit takes about as long each time, with a tail: a flush of the log may be shared or not.
        hold_s = load.hold_s * chance.uniform(0.7, 1.6)
        start = max(now, free_at[of])
        free_at[of] = start + hold_s
        held_s[of] += hold_s
        counts[of] += 1
        waits.append(start - now)
    waits.sort()
    return Waits(
        waits[len(waits) // 2],
        waits[len(waits) * 99 // 100],
        waits[-1],
        max(held_s) / load.seconds,
        max(counts) / load.seconds,
    )
