"""The environment as a layer: RECONCILE_<SECTION>__<KEY>, the short names, and each secret's _FILE and _ARN."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from reconcile.config import schema
from reconcile.config.given import Given, Layer, Via, put
from reconcile.errors import ConfigError

PREFIX: Final = "RECONCILE_"

# Ours, but not keys of the configuration.
OWN: Final = frozenset({"RECONCILE_CONFIG", "RECONCILE_RUN_ID", "RECONCILE_EVENT_ALLOWS"})
OWN_PREFIXES: Final = ("RECONCILE_TEST_",)

# What Kubernetes puts into every pod beside a Service that happens to be called reconcile(-something).
_SERVICE_LINK = re.compile(r"RECONCILE_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP)(?:_\w+)?)")

Sections = dict[str, dict[str, Given]]


def known() -> dict[str, tuple[str, schema.Spelling]]:
    """Variable → (section, what it means)."""
    names = {
        f"RECONCILE_{section}__{spelling}".upper(): (section, meaning)
        for section in schema.SECTIONS
        for spelling, meaning in schema.spellings(section).items()
    }
    for short, (section, key) in schema.SHORT_NAMES.items():
        meanings = schema.spellings(section)
        for suffix in ("", "_file", "_arn"):
            names[short + suffix.upper()] = (section, meanings[key + suffix])
    return names


def read(environ: Mapping[str, str]) -> Sections:
    """The layer. An empty variable counts as not set."""
    names = known()
    sections: Sections = {section: {} for section in schema.SECTIONS}
    for variable in sorted(environ):
        value = environ[variable]
        if variable in names:
            section, meaning = names[variable]
            if value:
                given = Given(value, variable, f"env {variable}", Layer.ENVIRONMENT, via(meaning))
                put(sections["view" if meaning.key.view else section], meaning.key.target, given)
        elif variable.startswith(PREFIX) and not _is_ours(variable, value):
            raise ConfigError(f"{variable}: unknown environment variable", hint=_suggestion(variable, names))
    return sections


def _suggestion(variable: str, names: Mapping[str, object]) -> str:
    # Without the part all have in common, which would make everything look alike.
    rests = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    wrong = variable.removeprefix(PREFIX).replace("MZ_", "MATERIALIZE_", 1)
    otherwise = "names are RECONCILE_<SECTION>__<KEY>, for example RECONCILE_REDIS__HOST"
    return schema.suggestion(wrong, rests, otherwise=otherwise).replace("mean ", f"mean {PREFIX}")


def via(meaning: schema.Spelling) -> Via:
    """How a variable of this spelling gives its value."""
    return {"": "text", "_file": "file", "_arn": "arn"}[meaning.suffix]  # type: ignore[return-value]


def _is_ours(variable: str, value: str) -> bool:
    if variable in OWN or variable.startswith(OWN_PREFIXES) or _SERVICE_LINK.fullmatch(variable):
        return True
    return variable.endswith("_PORT") and value.startswith(("tcp://", "udp://"))
