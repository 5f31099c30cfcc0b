"""One seed for everything random in a test run, all its workers included: shown at the start, and taken from
RECONCILE_TEST_SEED to replay."""

from __future__ import annotations

import os
import random

SEED = int(os.environ.get("RECONCILE_TEST_SEED") or random.SystemRandom().randrange(2**32))
os.environ["RECONCILE_TEST_SEED"] = str(SEED)  # for the workers


def rng(*what: object) -> random.Random:
    """A generator of one test's own. How to replay is printed; pytest shows it when the test fails."""
    print(f"{' '.join(map(str, what))}: replay with RECONCILE_TEST_SEED={SEED}")
    return random.Random(f"{SEED} {what}")
