"""Files that are either whole or absent: every write goes beside its target and is renamed onto it."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on a clean exit it is flushed to disk and renamed onto `path`.

    On any exception, a full disk included, the partial file is removed and `path` keeps what it held.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as handle:
            # Without this a power cut after the rename can leave a file of the right name and no content.
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Remove what processes that were killed had begun to write in `folder`; for the only process that writes there."""
    for partial in folder.glob(".*.partial"):
        # A file of this very number, in a container often that of the process before, is overwritten by its next write.
        if not partial.name.endswith(f".{os.getpid()}.partial"):
            partial.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all; a lone surrogate is written as its backslash escape."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinities are refused with ValueError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, ASCII only, so that no character in a completion can break a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read what `write_json_lines` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write named tensors as safetensors, with `about` as one JSON string under the key `about` of the header.

    Equal tensors and equal `about` give equal bytes: the JSON is sorted, and safetensors orders several keys at random.
    """
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {"about": json.dumps(about, sort_keys=True, allow_nan=False)}
    with whole_file(path) as partial:
        partial.write_bytes(save(kept, metadata=header))
