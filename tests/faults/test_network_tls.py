"""The same failures of the network with TLS on the wire: in the handshake, in the middle of records, after silence."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconcile.errors import Unavailable
from reconcile.stop import GRACE_S, Stop
from reconcile.target.wire import dial
from tests.faults import test_network_cuts as cuts
from tests.faults import test_network_silence as silence
from tests.faults.proxy import Fault
from tests.faults.rig import SLACK_S, Rig, new_rig
from tests.faults.test_network_silence import short_grace  # noqa: F401 - a fixture
from tests.support.redis_servers import RedisServer
from tests.support.sources import Source
from tests.support.tls import Wallet, make_wallet

RECORD = 16384
"""TLS cuts what is sent into records of at most so many bytes."""


@pytest.fixture(scope="module")
def wallet(tmp_path_factory: pytest.TempPathFactory) -> Wallet:
    """Certificates."""
    return make_wallet(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def rig(source: Source, redis_server: RedisServer, tmp_path: Path, wallet: Wallet) -> Iterator[Rig]:
    """A rig whose proxies see nothing but TLS."""
    with new_rig(source, redis_server, tmp_path, tls=wallet.server) as made:
        yield made


@pytest.mark.parametrize("name", ["large_first_load", "fingerprints", "large_delta", "follow", "verify"])
def test_cut_anywhere(name: str, rig: Rig, request: pytest.FixtureRequest) -> None:
    """Cut after N encrypted bytes: exit 6 at once, and the next run converges."""
    cuts.cut_anywhere(name, rig, cuts.SOAK_POSITIONS if request.config.getoption("--soak") else cuts.POSITIONS)


@pytest.mark.parametrize("action", cuts.ACTIONS)
@pytest.mark.parametrize(("direction", "after"), [("up", 0), ("up", 100), ("down", 0), ("down", 100)])
@pytest.mark.parametrize("side", ["source", "redis"])
def test_a_handshake_cut_short(side: str, direction: str, after: int, action: str, rig: Rig) -> None:
    """Whatever alerts that leads to: nobody has anything to set right, so exit 6."""
    rig.proxy(side).arm(Fault(direction, after, action))  # type: ignore[arg-type]
    ended = rig.run()
    assert rig.proxy(side).fired
    assert ended.code == 6, ended.told
    assert ended.seconds < cuts.BOUND_S + SLACK_S


@pytest.mark.parametrize("action", cuts.ACTIONS)
@pytest.mark.parametrize("side", ["source", "redis"])
def test_cut_in_the_middle_of_a_record(side: str, action: str, rig: Rig) -> None:
    """A record that is far longer than a packet ends half way: exit 6; nothing of it is taken for an answer."""
    rig.fill(200, 4 * RECORD)
    direction = "down" if side == "source" else "up"  # where the values travel
    rig.proxy(side).arm(Fault(direction, 20 * RECORD + RECORD // 2, action))  # type: ignore[arg-type]
    ended = rig.run()
    assert rig.proxy(side).fired
    assert ended.code == 6, ended.told
    assert ("Materialize" if side == "source" else "Redis") in ended.told
    assert ended.seconds < cuts.BOUND_S + SLACK_S
    rig.honest()
    rig.converges()


@pytest.mark.parametrize("name", ["large_first_load", "delta", "follow", "verify"])
@pytest.mark.usefixtures("short_grace")
def test_black_hole_anywhere(name: str, rig: Rig, request: pytest.FixtureRequest) -> None:
    """From encrypted byte N on nothing arrives any more: exit 6 after the timeout, or 4 after the deadline."""
    soak = request.config.getoption("--soak")
    silence.black_holes_anywhere(name, rig, silence.SOAK_POSITIONS if soak else silence.POSITIONS)


@pytest.mark.parametrize("side", ["source", "redis"])
@pytest.mark.parametrize("after", [0, 1, 300, 1200], ids=lambda after: f"after {after} bytes")
def test_a_handshake_into_a_black_hole(side: str, after: int, rig: Rig) -> None:
    """The connect timeout bounds the TLS handshake too, and what is asked afterwards about its failure."""
    silence.connect_into_a_black_hole(side, Fault("down", after, "black_hole"), rig)


@pytest.mark.parametrize("how", ["deadline", "signal"])
@pytest.mark.parametrize("side", ["source", "redis"])
def test_a_handshake_ends_with_the_run(side: str, how: str, rig: Rig) -> None:
    """A deadline or a signal ends a TLS handshake under way at once."""
    silence.connecting_ends_with_the_run(side, Fault("down", 300, "black_hole"), how, rig)


@pytest.mark.parametrize("side", ["source", "redis"])
def test_the_grace_of_a_real_run(side: str, rig: Rig) -> None:
    """A server that falls silent while it is followed, and a deadline: severed after the grace, below TLS too."""
    silence.patient(rig)
    rig.source.retain_history()
    rig.fill(50)
    assert rig.run(direct=True).code == 0
    at_last = Timer(rig, side)
    ended = rig.run(follow_s=60, max_runtime=2.5)
    at_last.join()
    assert ended.code == 4 if side == "redis" else ended.code in (0, 4), ended.told
    assert ended.seconds < 2.5 + GRACE_S + silence.RELEASE_BOUND_S + SLACK_S
    rig.converges()


class Timer(threading.Thread):
    """After a second one side falls silent; then there is something to write."""

    def __init__(self, rig: Rig, side: str) -> None:
        super().__init__(daemon=True)
        self._rig, self._side = rig, side
        self.start()

    def run(self) -> None:
        time.sleep(1.0)
        self._rig.proxy(self._side).black_hole()
        self._rig.source.put(k1="new")


def test_severing_leaves_the_encryption_on(rig: Rig) -> None:
    """What another thread is about to write when its socket is shut must not leave in the clear."""
    wire = dial(rig.settings().redis, Stop())
    secure = wire._connection._sock  # type: ignore[attr-defined]
    assert secure.version()
    wire.sever()
    assert secure.version()
    with pytest.raises(Unavailable):
        wire.call("PING")
    wire.close()
