"""Redis: everything that speaks to it. The only room that imports redis-py.

`import redis` also loads its client classes and its asyncio half, a third of the import time, and we use neither. So
the package body runs only when one of its names is first used; its modules are imported as usual.
"""

from __future__ import annotations

import importlib.util
import sys
import types


class _Package(types.ModuleType):
    """A package whose modules can be imported, while its own body runs only when one of its names is first used."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        self.__class__ = types.ModuleType  # type: ignore[assignment]
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def _postpone(name: str) -> None:
    spec = importlib.util.find_spec(name) if name not in sys.modules else None
    if spec is None:
        return
    package = _Package(name)
    package.__spec__, package.__loader__, package.__file__ = spec, spec.loader, spec.origin
    package.__path__ = list(spec.submodule_search_locations or ())
    package.__package__ = name
    sys.modules[name] = package


_postpone("redis")
