"""A scene whose Redis is a cluster: looked at node by node, which is exact as long as nobody writes meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import redis
from msgspec.structs import replace

from reconcile.config.settings import Settings
from tests.faults.scene import STATE, TIME_KEY, Scene, Seen
from tests.support.redis_cluster import Cluster
from tests.support.redis_state import Stored

_LOOK = """
local rows = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  if redis.call('TYPE', key).ok == 'string' then
    rows[#rows + 1] = key
    rows[#rows + 1] = redis.call('GET', key)
  elseif key == ARGV[1] then
    rows[#rows + 1] = key
    rows[#rows + 1] = redis.call('HGETALL', key)
  end
end
return rows
"""
NOT_DATA = (b"reconcile:{", TIME_KEY)


@dataclass
class ClusterScene(Scene):
    """As Scene. Foreign keys lie on every node."""

    server: Any = None
    foreign: dict[bytes, bytes] = field(default_factory=lambda: {b"q:%d" % n: b"foreign" for n in range(8)})

    def __post_init__(self) -> None:
        assert isinstance(self.server, Cluster)
        self.client: Any = redis.RedisCluster(host="127.0.0.1", port=self.server.nodes[0].port)
        self.plant()

    @property
    def settings(self) -> Settings:
        given = super().settings
        return replace(given, redis=replace(given.redis, cluster=True))

    def see(self, *, fully: bool = True) -> Seen:
        self.looks += 1
        rows: dict[bytes, Any] = {}
        for client in self.server.primaries():
            found = client.eval(_LOOK, 0, STATE + "state")
            rows |= dict(zip(found[::2], found[1::2], strict=True))
        texts = [part.decode() for part in rows.pop((STATE + "state").encode(), [])]
        return Seen(
            state=dict(zip(texts[::2], texts[1::2], strict=True)),
            data={k: v for k, v in rows.items() if not k.startswith(NOT_DATA) and k not in self.foreign},
            foreign={k: v for k, v in rows.items() if k in self.foreign},
            manifest=rows.get((STATE + "manifest").encode()),
            fingerprints=rows.get((STATE + "fingerprints").encode()),
            remembered=set(),
        )

    def save(self) -> None:
        self.saved = Stored(self.server.everything())

    def restore(self) -> None:
        self.server.flush()
        self.server.restore(self.saved.entries)

    def everything(self) -> dict[bytes, bytes]:
        own = [(STATE + "lease").encode(), (STATE + "token").encode()]
        return {key: dump for key, dump in self.server.everything().items() if key not in own}
