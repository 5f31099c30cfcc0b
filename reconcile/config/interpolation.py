"""${VAR}, ${VAR:-default}, ${VAR:?message} in the scalars of a configuration file; $${ stands for a literal ${.

Done after YAML is parsed, so a variable's content can never change the file's structure. A `$` that no `{` follows is
itself, also when doubled: passwords and dollar-quoted SQL written for mz-redis-sync keep their meaning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::([-?])([^}]*))?\})?")


class Unresolved(Exception):  # noqa: N818 - the caller knows the place and turns it into a ConfigError
    """A reference without a value. `whole`: it is the entire scalar, so naming it gives nothing else away."""

    def __init__(self, problem: str, hint: str, *, whole: bool) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint
        self.whole = whole


def has_reference(text: str) -> bool:
    """Whether `expand` would look anything up."""
    return "${" in text


def expand(text: str, environ: Mapping[str, str]) -> str:
    """The text with every reference replaced."""

    def replacement(match: re.Match[str]) -> str:
        whole = match.group() == text
        if match.group().startswith("$$"):
            return "${"
        name, operator, rest = match.groups()
        if name is None:
            raise Unresolved(
                "'${' does not begin a valid reference",
                "write ${VAR}, ${VAR:-default} or ${VAR:?message}; $${ for a literal ${",
                whole=False,
            )
        value = environ.get(name)
        if value is not None and (value or operator is None):
            return value
        if operator == "-":
            return rest
        if operator == "?" and rest:
            raise Unresolved(
                f"${{{name}}}: {' '.join(rest.split())}", f"set the environment variable {name}", whole=whole
            )
        raise Unresolved(
            f"the environment variable {name} is {'empty' if value == '' else 'not set'}",
            f"set {name}, or write ${{{name}:-default}}; $${{ stands for a literal ${{",
            whole=whole,
        )

    return _REFERENCE.sub(replacement, text)
