"""Work on many rows in pieces that fit into memory; the pieces never change the result."""

import logging
from collections.abc import Callable
from typing import TypeVar

import psutil
import torch

from discover.errors import UsageError

Piece = TypeVar("Piece")


def in_pieces(function: Callable[[slice], Piece], total: int, size: int, advice: str) -> tuple[list[Piece], int]:
    """Return `function` over consecutive slices of `total` rows, and the size that the pieces ended with.

    The size is halved whenever memory runs out.

    Raises:
        UsageError: memory does not suffice for a single row; the sentence ends with `advice`.
    """
    done: list[Piece] = []
    start = 0
    while start < total:
        try:
            done.append(function(slice(start, start + size)))
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            # Halving ends here: one row cannot be cut, and its prompt is the user's to shorten.
            if size == 1:
                raise UsageError(f"There is not enough memory for a single row; {advice}.") from error
            size = max(1, size // 2)
            logging.info("memory ran out; from here on %d rows at once", size)
            if torch.cuda.is_available():
                # Else the failed attempt's memory stays cached in pieces that the smaller one may not be able to use.
                torch.cuda.empty_cache()
            continue
        start += size
    return done, size


def free_memory(device: str) -> int:
    """Return the bytes free on the device."""
    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else int(psutil.virtual_memory().available)


def out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says so; on a CPU torch reports a failed allocation as a plain RuntimeError."""
    told = str(error)
    refused = any(words in told for words in ("can't allocate memory", "not enough memory", "could not create a memory object"))
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or refused
