"""A YAML file as nested nodes that know their line. Only the shape is checked here; values stay text.

Then variables in its scalars: ${VAR}, ${VAR:-default}, ${VAR:?message}; $${ stands for a literal ${. They are expanded
after YAML is parsed, so a variable's content can never change the file's structure. A `$` that no `{` follows stands
for itself, even doubled: passwords and dollar-quoted SQL written for mz-redis-sync keep their meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from reconcile.errors import ConfigError

if TYPE_CHECKING:
    import yaml

FILE_MAX_BYTES = 1 << 20
DEPTH_MAX = 32
LEVELS = 4
_MERGE_MAX = 8
_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + t for t in ("str", "int", "float", "bool", "null", "timestamp", "value")}
_TRUE = ("y", "yes", "true", "on")


class Node(Struct, frozen=True):
    """A mapping (dict), a list, a scalar's text, a bool, or None for nothing at all."""

    content: dict[str, Node] | list[Node] | str | bool | None
    place: str

    def __repr__(self) -> str:
        """Without the content: it may be a secret."""
        return f"Node({self.place!r})"

    @property
    def found(self) -> str:
        if isinstance(self.content, dict):
            return "a mapping"
        if isinstance(self.content, list):
            return "a list"
        return "nothing" if self.content is None else "a single value"


def read(path: str) -> Node:
    """Return the file's top-level mapping; empty for an empty file."""
    text = _text(path)
    root = _compose(text, path)
    if root is None:
        return Node({}, f"{path}:1")
    node = _node(root, path, "", LEVELS)
    if node.content is None:
        return Node({}, node.place)
    if not isinstance(node.content, dict):
        raise ConfigError(
            f"{node.place}: expected a mapping, found {node.found}", hint="begin with materialize: and redis:"
        )
    return node


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ConfigError(
            f"{path}: {reason}",
            hint="name another with --config or RECONCILE_CONFIG; reconcile init prints one to start with",
        ) from error
    if len(content) > FILE_MAX_BYTES:
        raise ConfigError(f"{path}: larger than 1 MB", hint="is this a configuration file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8", hint="save the file as UTF-8") from None


def _compose(text: str, path: str) -> yaml.Node | None:
    import yaml

    hint = "check the indentation, the colons and the quotes around this place"
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_depth(yaml.parse(text, loader), path)
        node: yaml.Node | None = yaml.compose(text, loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        # Quoted texts come from the file (an alias, a tag) and might be a password; single characters are safe.
        problem = re.sub(r"'[^']*'", lambda m: m[0] if len(m[0]) <= 3 else "…", error.problem or "syntax error")
        raise ConfigError(f"{place}: not YAML: {' '.join(problem.split())}", hint=hint) from None
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"{path}: not YAML: a character that is not allowed", hint=hint) from None
    return node


def _check_depth(events: Iterator[yaml.Event], path: str) -> None:
    """Limit nesting before composing: libyaml's composer recurses in C, and a few thousand brackets crash it."""
    import yaml

    depth = 0
    for event in events:
        line = event.start_mark.line + 1 if event.start_mark else 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            raise ConfigError(f"{path}:{line}: nested too deeply", hint="a configuration has at most four levels")


def shown(name: str) -> str:
    """Return a key for an error message; unusual ones might be a misplaced secret ('password:x')."""
    return name if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", name) else "(unreadable key)"


def _node(node: yaml.Node, path: str, where: str, depth: int) -> Node:
    import yaml

    place = f"{path}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.ScalarNode):
        return Node(_scalar(node, place, where), place)
    if depth == 0:
        raise ConfigError(f"{place}: {where}: nested too deeply", hint="a configuration has at most four levels")
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return Node([_node(item, path, f"{where}[{n}]", depth - 1) for n, item in enumerate(node.value)], place)
    if not isinstance(node, yaml.MappingNode) or node.tag != _TAG + "map":
        raise ConfigError(f"{place}: {where or 'file'}: unsupported YAML tag", hint="remove the ! tag")
    content: dict[str, Node] = {}
    own: set[str] = set()
    for key, value, merged in _pairs(node, path, _MERGE_MAX):
        name = key.value
        below = f"{where}.{shown(name)}" if where else shown(name)
        if not merged and name in own:
            line = key.start_mark.line + 1
            raise ConfigError(
                f"{path}:{line}: {below}: given twice", hint=f"first at {content[name].place}; keep one of them"
            )
        if merged and name in content:
            continue
        if not merged:
            own.add(name)
        if not (where == "" and name.startswith("x-")):
            content[name] = Node(_node(value, path, below, depth - 1).content, f"{path}:{key.start_mark.line + 1}")
    return Node(content, place)


def _pairs(node: yaml.MappingNode, path: str, merges: int) -> Iterator[tuple[yaml.ScalarNode, yaml.Node, bool]]:
    """Yield keys and values, those of `<<:` merges last, so that the mapping's own win."""
    import yaml

    sources: list[tuple[str, yaml.Node]] = []
    for key, value in node.value:
        place = f"{path}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{place}: a key is not plain text", hint="write key: value")
        if key.tag != _TAG + "merge":
            yield key, value, False
            continue
        sources += [(place, one) for one in (value.value if isinstance(value, yaml.SequenceNode) else [value])]
    for place, source in sources:
        if not isinstance(source, yaml.MappingNode) or merges == 0:
            raise ConfigError(f"{place}: '<<' does not merge a mapping", hint="write <<: *anchor")
        for key, value, _ in _pairs(source, path, merges - 1):
            yield key, value, True


def _scalar(node: yaml.ScalarNode, place: str, where: str) -> str | bool | None:
    if node.tag not in _SCALARS:
        raise ConfigError(f"{place}: {where}: unsupported YAML tag", hint="remove the ! tag")
    if node.tag == _TAG + "null":
        return None
    if node.tag == _TAG + "bool":
        return str(node.value).lower() in _TRUE
    # Numbers and dates keep their text: `password: 0123` means these four characters.
    return str(node.value)


# -- variables in it

_REFERENCE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::([-?])([^}]*))?\})?")


class Unresolved(Exception):  # noqa: N818 - the caller knows the place and turns it into a ConfigError
    """A reference without a value. `whole`: it is the entire scalar, so naming it reveals nothing else."""

    def __init__(self, problem: str, hint: str, *, whole: bool) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint
        self.whole = whole


def has_reference(text: str) -> bool:
    """Whether the text contains a reference for `expand`."""
    return "${" in text


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Return the text with every reference replaced."""

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
        if value is not None and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise Unresolved(f"the environment variable {name} is not UTF-8", f"set {name} again as UTF-8", whole=whole)
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
