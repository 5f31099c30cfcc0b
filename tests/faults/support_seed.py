"""One seed for everything random: printed, and taken from RECONCILE_TEST_SEED to replay."""

from __future__ import annotations

import os
import random

SEED = int(os.environ.get("RECONCILE_TEST_SEED") or random.SystemRandom().randrange(2**32))


def announce(what: str) -> random.Random:
    """Say how to replay; pytest shows it when the test fails."""
    print(f"{what}: replay with RECONCILE_TEST_SEED={SEED}")
    return random.Random(f"{SEED} {what}")
