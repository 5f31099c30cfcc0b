"""What the tests are told by their environment, and what they keep from the programs they start.

RECONCILE_TEST_MATERIALIZE_URL names the Materialize to test with, and has to say everything: no PG… adds to it.

The product reads MATERIALIZE_URL, REDIS_URL, RECONCILE_… and, through libpq, PG…, and lets them win over a
configuration file. A test writes the configuration it is about, so a program it starts must find none of them.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SOURCE_URL = "RECONCILE_TEST_MATERIALIZE_URL"
_OWN = "RECONCILE_TEST_"
_OF_THE_PRODUCT = ("RECONCILE_", "MATERIALIZE_", "REDIS_", "PG")


def separate(environ: MutableMapping[str, str] = os.environ) -> None:
    """Take what the product reads out of the environment, for this process and all that it starts.

    A MATERIALIZE_URL found there is taken for the tests' own, unless that is given too.
    """
    given = environ.get(SOURCE_URL) or environ.get("MATERIALIZE_URL")
    for name in list(environ):
        if name.startswith(_OF_THE_PRODUCT) and not name.startswith(_OWN):
            del environ[name]
    if given:
        environ[SOURCE_URL] = given


def source_url() -> str | None:
    """The Materialize to test with; None: the stand-in."""
    return os.environ.get(SOURCE_URL) or None
