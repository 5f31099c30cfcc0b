"""What expressions over hashes make of an array of hashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reconcile_standin.problem import SqlError
from reconcile_standin.typed import Hash, Mask, Modulo, OneOf, OrElse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reconcile_standin.typed import Vector

    Hashes = NDArray[np.uint64]
    Flags = NDArray[np.bool_]


def hash_of(vector: Vector) -> Hash:
    """The hash an expression starts from."""
    if isinstance(vector, Hash):
        return vector
    if isinstance(vector, Modulo | OrElse | OneOf):
        return hash_of(vector.of)
    return hash_of(vector.index if not isinstance(vector, Mask) else vector.pick.index)


def numbers(vector: Hash | Modulo, hashes: Hashes) -> Hashes:
    """A hash or its remainder."""
    return hashes % np.uint64(vector.by) if isinstance(vector, Modulo) else hashes


def satisfied(vector: Mask | OneOf, hashes: Hashes, valid: Flags) -> Flags:
    """Which rows satisfy a condition on a hash."""
    if isinstance(vector, OneOf):
        wanted = np.array([n for n in vector.numbers if 0 <= n < 2**64], dtype=np.uint64)
        found: Flags = np.isin(numbers(vector.of, hashes), wanted)
        return np.where(valid, found, vector.nulls)
    values = numbers(vector.pick.index, hashes)
    table = np.frombuffer(vector.pick.mask, dtype=np.uint8) == vector.byte
    outside = (values >= np.uint64(len(table))) & valid
    if outside.any():
        index = int(values[outside][0])
        raise SqlError.evaluation(f"index {index} out of valid range, 0..{len(table) - 1}")
    chosen: Flags = table[np.where(valid, values, 0).astype(np.int64)]
    return chosen & valid
