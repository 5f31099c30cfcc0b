"""The tables of docs/configuration.md, out of the table of keys. `python -m tests.support.manual` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

from reconcile.config import address, schema
from reconcile.config.values import Key

MANUAL = Path(__file__).parents[2] / "docs/configuration.md"
_PLACE = re.compile(r"(?s)(<!-- keys: ([a-z. ]+) -->\n).*?(<!-- end -->)")


def tables() -> dict[str, str]:
    """Name of the place in the manual → its table."""
    return {section: _section(section) for section in schema.SECTIONS} | {"redis url": _parameters()}


def written(text: str) -> str:
    """The manual with its tables as they have to be."""
    made = tables()
    return _PLACE.sub(lambda match: match[1] + made[match[2]] + match[3], text)


def places(text: str) -> list[str]:
    """The names of the tables that the manual has, in order."""
    return [match[2] for match in _PLACE.finditer(text)]


def _section(section: str) -> str:
    rows = ["| key | type | default | meaning | variable |", "|---|---|---|---|---|"]
    rows += [_row(section, key) for key in schema.SECTIONS[section]]
    for key in schema.SECTIONS[schema.VIEW]:
        if key.place == section:
            name = f"`RECONCILE_{section.upper()}__{key.name.upper()}`"
            rows.append(f"| `{key.name}` | {key.kind.label} | – | as for a view; mz-redis-sync has it here | {name} |")
    return "\n".join(rows) + "\n"


def _row(section: str, key: Key) -> str:
    short = {place: name for name, place in schema.SHORT_NAMES.items()}.get((section, key.name))
    variable = short or f"RECONCILE_{section.replace('.', '__')}__{key.name}".upper()
    default = key.absent if key.default in (None, "") or key.absent != "–" else f"`{key.kind.write(key.default)}`"
    doc = key.doc + ("" if section != schema.VIEW or key.common else " †")
    return f"| `{key.name}` | {key.kind.label} | {default} | {doc} | `{variable}` |"


def _parameters() -> str:
    rows = ["| parameter | meaning |", "|---|---|"]
    rows += [f"| `{name}` | {meaning} |" for name, (_, _, meaning) in address.REDIS_PARAMETERS.items()]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    MANUAL.write_text(written(MANUAL.read_text(encoding="utf-8")), encoding="utf-8")
