"""A value somebody gave, with the place it came from: what every error message and `origins` are made of."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Literal

from reconcile.errors import ConfigError


class Layer(enum.IntEnum):
    """Higher wins."""

    FILE = 1
    ENVIRONMENT = 2
    FLAG = 3


Via = Literal["text", "file", "arn"]


@dataclass(frozen=True, slots=True)
class Given:
    """One scalar before it is typed. Only the winner of several layers is ever expanded, read and parsed."""

    raw: str | bool = field(repr=False)
    path: str
    """As its author knows it: 'redis.port' in a file or flag, 'REDIS_URL' in the environment."""
    place: str
    """For `origins`: 'config.yaml:4', 'env REDIS_URL', 'flag'."""
    layer: Layer
    via: Via = "text"
    """text: the value itself; file: the path of a file that holds it; arn: its name in AWS Secrets Manager."""

    @property
    def where(self) -> str:
        """The beginning of every message about this value."""
        if self.layer is Layer.FILE:
            return f"{self.place}: {self.path}"
        return self.path if self.layer is Layer.ENVIRONMENT else f"flag {self.path}"

    def error(self, problem: str, hint: str) -> ConfigError:
        return ConfigError(f"{self.where}: {problem}", hint=hint)


def put(into: dict[str, Given], name: str, given: Given) -> None:
    """Add to one layer, where a value may be given once, under one of its names."""
    other = into.get(name)
    if other is not None:
        raise ConfigError(
            f"{given.where}: {other.where} gives the same value", hint=f"keep one of {other.path} and {given.path}"
        )
    into[name] = given
