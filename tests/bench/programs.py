"""What reconcile is compared with, as programs of their own: `python -m tests.bench.programs NAME ARGUMENT …`

copy URL STATEMENT       stands in for psql where there is none: COPY … TO STDOUT, thrown away
pipe URL                 stands in for redis-cli --pipe where there is none: stdin to Redis
naive URL QUERY REDIS    loads as mz-redis-sync does: FETCH 100 from a SUBSCRIBE cursor, SET each row, one MULTI
scan REDIS               reads all keys and values with the redis client
stream URL STATEMENT     a finite read in chunks; prints the seconds of the statement alone
gets REDIS KEYS          reads one key every 2 ms until stdin ends; prints the moment and the milliseconds of each
progress URL QUERY       prints, for each row that a SUBSCRIBE closes with progress, its key and the moment
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any


def copy(url: str, statement: str) -> None:
    """COPY to nowhere."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection, connection.cursor().copy(statement.encode()) as rows:
        for _ in rows:
            pass


def pipe(url: str) -> None:
    """Send stdin as it is, then wait until Redis has answered all of it."""
    import socket
    from urllib.parse import urlsplit

    address = urlsplit(url)
    mark = b"end-of-pipe"
    with socket.create_connection((address.hostname, address.port or 6379)) as server:
        server.setblocking(True)
        import threading

        def drain() -> None:
            tail = b""
            while mark not in tail:
                tail = tail[-64:] + server.recv(1 << 16)

        reader = threading.Thread(target=drain)
        reader.start()
        while block := sys.stdin.buffer.read(1 << 16):
            server.sendall(block)
        server.sendall(b"*2\r\n$4\r\nECHO\r\n$%d\r\n%s\r\n" % (len(mark), mark))
        reader.join()


def naive(url: str, query: str, redis_url: str) -> None:
    """The first consistent content by a cursor, a SET per row, all of it in one transaction."""
    import psycopg
    import redis

    client = redis.Redis.from_url(redis_url)
    writing = client.pipeline(transaction=True)
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        subscribe = f"SUBSCRIBE ({query}) WITH (PROGRESS) ENVELOPE UPSERT (KEY (key))"
        cursor.execute(f"DECLARE c CURSOR FOR {subscribe}".encode())
        progressed = 0
        while progressed < 2:  # the first progress row comes before any data
            for _, is_progress, _, key, value in cursor.execute("FETCH 100 c"):
                if is_progress:
                    progressed += 1
                elif value is not None:
                    writing.set(f"p:{key}", value)
    writing.execute()


def scan(redis_url: str) -> None:
    """SCAN and MGET of every page."""
    import redis

    client = redis.Redis.from_url(redis_url)
    cursor, rows = 0, 0
    while True:
        found: Any = client.scan(cursor, count=1000, match="p:*")
        cursor, keys = found
        if keys:
            values: Any = client.mget(keys)
            rows += len(values)
        if cursor == 0:
            break
    print(rows)


def stream(url: str, statement: str) -> None:
    """Read in chunks, values as raw bytes, and look at nothing."""
    import psycopg
    from psycopg.types.string import ByteaBinaryLoader

    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        for name in ("text", "int8", "uint8", "numeric"):
            try:
                connection.adapters.register_loader(name, ByteaBinaryLoader)
            except KeyError:
                continue
        started = time.monotonic()
        with connection.cursor() as cursor:
            for _ in cursor.stream(statement.encode(), binary=True, size=500):
                pass
        print(time.monotonic() - started)


def gets(redis_url: str, keys: str) -> None:
    """Another client of the same Redis, which notes how long it waits."""
    import random
    import select

    import redis

    client = redis.Redis.from_url(redis_url)
    seen: list[tuple[float, float]] = []
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        began = time.monotonic()
        client.get(f"other:{random.randrange(int(keys))}")
        seen.append((began, (time.monotonic() - began) * 1000))
    print("".join(f"{at} {took:.4f}\n" for at, took in seen), end="")


def progress(url: str, query: str) -> None:
    """The source's own latency: when does a bare client know that a row is complete?"""
    import psycopg

    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        statement = f"COPY (SUBSCRIBE ({query}) WITH (PROGRESS, SNAPSHOT=false)) TO STDOUT"
        waiting: list[str] = []
        with connection.cursor().copy(statement.encode()) as rows:
            for line in rows:
                _, progressed, _, key, *_ = bytes(line).decode().rstrip("\n").split("\t")
                if progressed != "t":
                    waiting.append(key)
                    continue
                now = time.monotonic()
                print("".join(f"{key} {now}\n" for key in waiting or ["-"]), end="", flush=True)
                waiting.clear()


PROGRAMS: dict[str, Callable[..., None]] = {
    "copy": copy, "pipe": pipe, "naive": naive, "scan": scan, "stream": stream, "progress": progress, "gets": gets,
}  # fmt: skip

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](*sys.argv[2:])
