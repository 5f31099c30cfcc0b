"""File, environment and flags in one form, section → name → Given, plus the views of a file."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct, field

from reconcile import texts
from reconcile.config import document, schema
from reconcile.config.document import Node
from reconcile.config.schema import VIEW, Spelling
from reconcile.config.settings import Secret
from reconcile.config.values import Raw
from reconcile.core.shards import COUNT_VARIABLE
from reconcile.errors import ConfigError

VIEWS_MAX = 1_000
PREFIX: Final = "RECONCILE_"

# Ours, but not keys of the configuration.
OWN: Final = frozenset({"RECONCILE_CONFIG", "RECONCILE_RUN_ID", "RECONCILE_EVENT_ALLOWS", COUNT_VARIABLE})
OWN_PREFIXES: Final = ("RECONCILE_TEST_",)

# Variables Kubernetes sets in every pod if a Service is called reconcile(-something).
_SERVICE_LINK = re.compile(r"RECONCILE_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP)(?:_\w+)?)")
_VIEW_DEFAULTS: Final = "view_defaults"


class Layer(enum.IntEnum):
    """Where a value comes from; the higher layer wins."""

    FILE = 1
    ENVIRONMENT = 2
    FLAG = 3


class Given(Struct, frozen=True):
    """A configured value before it is typed, with the place it came from.

    Only the value that wins over the other layers is expanded, fetched and parsed.
    """

    raw: Raw
    path: str
    """The name its author used: 'redis.port' in a file or flag, 'REDIS_URL' in the environment."""
    place: str
    """The origin to show: 'config.yaml:4', 'env REDIS_URL', 'flag'."""
    layer: Layer
    via: Literal["text", "file", "arn"] = "text"
    """text: the value itself; file: the path of a file that holds it; arn: its ARN in AWS Secrets Manager."""

    @property
    def where(self) -> str:
        """The beginning of every message about this value."""
        if self.layer is Layer.FILE:
            return f"{self.place}: {self.path}"
        return self.path if self.layer is Layer.ENVIRONMENT else f"flag {self.path}"

    def __repr__(self) -> str:
        """Without the value: it may be a secret."""
        return f"Given({self.path!r}, {self.place!r})"

    def error(self, problem: str, hint: str) -> ConfigError:
        return ConfigError(f"{self.where}: {problem}", hint=hint)


Section = dict[str, Given]


def _sections() -> dict[str, Section]:
    return {section: {} for section in schema.SECTIONS}


class FileLayer(Struct):
    """The file's sections and views. `views` is None without a views: list; the keys of mz-redis-sync are in
    sections['view'].
    """

    sections: dict[str, Section] = field(default_factory=_sections)
    defaults: Section = field(default_factory=dict)
    views: list[Section] | None = None
    views_place: str = ""
    view_places: list[str] = field(default_factory=list)


def _put(into: Section, meaning: Spelling, given: Given) -> None:
    """Add a value to one layer, in which it may be given only once, under one of its names."""
    other = into.get(meaning.key.name)
    if other is not None:
        raise ConfigError(
            f"{given.where}: {other.where} gives the same value", hint=f"keep one of {other.path} and {given.path}"
        )
    into[meaning.key.name] = given


def _via(meaning: Spelling) -> Literal["text", "file", "arn"]:
    return {"": "text", "_file": "file", "_arn": "arn"}[meaning.suffix]  # type: ignore[return-value]


# -- the file


def of_file(path: str) -> FileLayer:
    """Read the file: its keys are checked, its values are still text."""
    layer = FileLayer()
    root = document.read(path)
    assert isinstance(root.content, dict)
    allowed = [name for name in schema.SECTIONS if name != VIEW and "." not in name] + [_VIEW_DEFAULTS, "views"]
    for name, node in root.content.items():
        if name not in allowed:
            hint = schema.suggestion(name, allowed, otherwise=f"the sections are {', '.join(allowed)}")
            raise ConfigError(f"{node.place}: {document.shown(name)}: unknown section", hint=hint)
        if node.content is None:
            continue
        if name == "views":
            layer.views_place = node.place
            layer.views = _views(node, layer)
        elif name == _VIEW_DEFAULTS:
            _section({VIEW: layer.defaults}, VIEW, _mapping(node, name), name)
            _check_defaults(layer.defaults)
        else:
            _section(layer.sections, name, _mapping(node, name), name)
    return layer


def _mapping(node: Node, where: str) -> dict[str, Node]:
    if not isinstance(node.content, dict):
        raise ConfigError(
            f"{node.place}: {where}: expected a mapping, found {node.found}",
            hint=f"write {where}: and below it, indented, key: value",
        )
    return node.content


def _views(node: Node, layer: FileLayer) -> list[Section]:
    if not isinstance(node.content, list):
        raise ConfigError(
            f"{node.place}: views: expected a list, found {node.found}", hint="begin each view with '- name: …'"
        )
    if not 1 <= len(node.content) <= VIEWS_MAX:
        raise ConfigError(
            f"{node.place}: views: expected 1 to {VIEWS_MAX} views", hint="begin each view with '- name: …'"
        )
    found = []
    for n, item in enumerate(node.content):
        layer.view_places.append(item.place)
        entry: Section = {}
        _section({VIEW: entry}, VIEW, _mapping(item, f"views[{n}]"), f"views[{n}]")
        found.append(entry)
    return found


def _section(into: dict[str, Section], section: str, content: dict[str, Node], path: str) -> None:
    known = schema.spellings(section)
    for name, node in content.items():
        where = f"{path}.{document.shown(name)}"
        if f"{section}.{name}" in schema.SECTIONS:
            if node.content is not None:
                _section(into, f"{section}.{name}", _mapping(node, where), where)
            continue
        meaning = known.get(name)
        if meaning is None:
            raise ConfigError(f"{node.place}: {where}: unknown key", hint=_unknown(section, name, sorted(known)))
        if node.content is None:
            continue
        given = Given(_raw(node, meaning, where), where, node.place, Layer.FILE, _via(meaning))
        _put(into[schema.home(section, meaning.key)], meaning, given)


def _raw(node: Node, meaning: Spelling, where: str) -> Raw:
    many = meaning.key.kind.many and not meaning.suffix
    if isinstance(node.content, list) and many:
        items = [item.content for item in node.content]
        if all(isinstance(item, str) for item in items):
            return tuple(item for item in items if isinstance(item, str))
        raise ConfigError(f"{node.place}: {where}: expected {meaning.expects}", hint=meaning.key.kind.hint)
    if isinstance(node.content, str | bool):
        return node.content
    hint = meaning.key.kind.hint if many else "give a single value"
    raise ConfigError(f"{node.place}: {where}: expected {meaning.expects}, found {node.found}", hint=hint)


def _unknown(section: str, name: str, known: list[str]) -> str:
    """Return the hint for an unknown key. A key in the wrong section is likelier than a misspelling."""
    for other in schema.SECTIONS:
        if other != section and name in schema.spellings(other):
            return f"it belongs to {'an entry of views' if other == VIEW else other}:"
    nested = [one.rpartition(".")[2] for one in schema.SECTIONS if one.startswith(section + ".")]
    return schema.suggestion(name, known + nested, otherwise=f"known here: {', '.join(known + nested)}")


def _check_defaults(defaults: Section) -> None:
    for name, given in defaults.items():
        if not schema.key_of(VIEW, name).common:
            raise given.error("every view needs its own", "write it into the entries of views:")


# -- the environment


def is_utf8(text: str) -> bool:
    """Whether `texts.environment` could decode the text."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def variables() -> dict[str, tuple[str, Spelling]]:
    """Return variable → (section, spelling)."""
    names = {
        f"{PREFIX}{section.replace('.', '__')}__{spelling}".upper(): (section, meaning)
        for section in schema.SECTIONS
        for spelling, meaning in schema.spellings(section).items()
    }
    for short, (section, key) in schema.SHORT_NAMES.items():
        meanings = schema.spellings(section)
        for suffix in ("", "_file", "_arn"):
            names[short + suffix.upper()] = (section, meanings[key + suffix])
    return names


def of_environment(environ: Mapping[str, str]) -> dict[str, Section]:
    """Read the environment. An empty variable counts as not set."""
    names = variables()
    sections = _sections()
    for variable in sorted(environ):
        value = environ[variable]
        if variable in names:
            section, meaning = names[variable]
            if value:
                given = Given(_split(value, meaning), variable, f"env {variable}", Layer.ENVIRONMENT, _via(meaning))
                if not is_utf8(value):
                    raise given.error("not UTF-8", "the variable is not valid UTF-8; set it again")
                _put(sections[schema.home(section, meaning.key)], meaning, given)
        elif variable.startswith(PREFIX) and not _is_ours(variable, value):
            raise ConfigError(f"{texts.printable(variable)}: unknown environment variable", hint=_near(variable, names))
    return sections


def _split(text: str, meaning: Spelling) -> Raw:
    if meaning.key.kind.many and not meaning.suffix and "," in text:
        return tuple(one.strip() for one in text.split(","))
    return text


def _near(variable: str, names: Mapping[str, object]) -> str:
    # Without the common prefix, which would make all names look alike.
    rests = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    wrong = variable.removeprefix(PREFIX).replace("MZ_", "MATERIALIZE_", 1)
    otherwise = "names are RECONCILE_<SECTION>__<KEY>, for example RECONCILE_REDIS__HOST"
    return schema.suggestion(wrong, rests, otherwise=otherwise).replace("mean ", f"mean {PREFIX}")


def _is_ours(variable: str, value: str) -> bool:
    if variable in OWN or variable.startswith(OWN_PREFIXES) or _SERVICE_LINK.fullmatch(variable):
        return True
    return variable.endswith("_PORT") and value.startswith(("tcp://", "udp://"))


# -- flags

_ON_THE_COMMAND_LINE: Final = {
    "limits.jobs": "--jobs",
    "limits.max_runtime_s": "--max-runtime",
    "logging.level": "--log-level",
    "metrics.file": "--metrics-file",
}
"""What a user typed who set these."""


def of_flags(overrides: Mapping[str, object]) -> tuple[dict[str, Section], dict[str, Section]]:
    """Return flags by section, and those for one named view ('views.orders.buckets'). None: flag not given.

    Flags may also use the settings' names for keys: limits.max_runtime_s.
    """
    sections = _sections()
    named: dict[str, Section] = {}
    for path, value in overrides.items():
        if value is None:
            continue
        section, _, name = path.rpartition(".")
        view = section.removeprefix("views.") if section.startswith("views.") else None
        section = section if view is None else VIEW
        meaning = _flag(section, name)
        if meaning is None:
            known = [f"{s}.{key.name}" for s, keys in schema.SECTIONS.items() for key in keys]
            raise ConfigError(
                f"flag {path}: unknown setting", hint=schema.suggestion(path, known, otherwise="for example redis.host")
            )
        raw: Raw = value if isinstance(value, bool) else value.reveal() if isinstance(value, Secret) else str(value)
        typed = _ON_THE_COMMAND_LINE.get(path, path)
        given = Given(_split(raw, meaning) if isinstance(raw, str) else raw, typed, "flag", Layer.FLAG, _via(meaning))
        into = sections[schema.home(section, meaning.key)] if view is None else named.setdefault(view, {})
        _put(into, meaning, given)
    return sections, named


def _flag(section: str, name: str) -> Spelling | None:
    if section not in schema.SECTIONS:
        return None
    by_field = {key.field: Spelling(key) for key in schema.SECTIONS[section] if key.field}
    return (by_field | schema.spellings(section)).get(name)
