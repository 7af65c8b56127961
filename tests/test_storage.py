"""A file is whole or absent, and no text can break it."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from discover.storage import read_json, read_json_lines, whole_file, write_json, write_json_lines, write_tensors, write_text

HOSTILE = (
    "line\u2028paragraph\u2029next\x85\x0b\x0c\x1c\r\n\x00 \ud800 lone \udfff \U0001f600 \ufeff </script> \x1b[31m \\ud800 ]]>"
)


class Broken(Exception):
    pass


def test_an_exception_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(Broken), whole_file(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old", "until the end the file holds what it held"
        raise Broken
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_exception_before_the_first_byte_leaves_no_file(tmp_path):
    with pytest.raises(Broken), whole_file(tmp_path / "file"):
        raise Broken
    with pytest.raises(ValueError):
        write_json(tmp_path / "numbers", {"value": math.nan})
    with pytest.raises(ValueError):
        write_json_lines(tmp_path / "rows", [{"value": 1}, {"value": math.inf}])
    assert list(tmp_path.iterdir()) == []


def test_a_clean_exit_replaces_the_file(tmp_path):
    write_text(tmp_path / "file", "old and longer")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_hostile_text_round_trips_one_line_a_row(tmp_path):
    rows = [{"text": HOSTILE}, {"text": "\n"}, {HOSTILE: [1, None, True, 0.1]}, {"text": ""}]
    path = tmp_path / "rows.jsonl"
    write_json_lines(path, rows)
    assert read_json_lines(path) == rows
    content = path.read_bytes()
    assert content.isascii() and content.count(b"\n") == 4 and not any(byte < 32 for byte in content if byte != 10)
    write_json(path, rows)
    assert read_json(path) == rows and path.read_bytes().isascii()


def test_no_rows_are_an_empty_file(tmp_path):
    write_json_lines(tmp_path / "rows.jsonl", [])
    assert read_json_lines(tmp_path / "rows.jsonl") == [] and (tmp_path / "rows.jsonl").stat().st_size == 0


def test_text_with_a_lone_surrogate_is_written_escaped(tmp_path):
    write_text(tmp_path / "report", "a \ud800 b \u2028")
    assert (tmp_path / "report").read_text(encoding="utf-8") == "a \\ud800 b \u2028"


def test_tensors_round_trip_and_equal_content_gives_equal_bytes(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"b": base.T, "a": base, "c": base[1:], "bits": torch.tensor([1, 2], dtype=torch.bfloat16)}
    write_tensors(tmp_path / "one", tensors, {"z": 1, "a": "\ud800"})
    write_tensors(tmp_path / "two", dict(reversed(tensors.items())), {"a": "\ud800", "z": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    held = load_file(tmp_path / "one")
    assert held.keys() == tensors.keys() and all(torch.equal(held[name], tensors[name]) for name in held)
    header = json.loads(
        (tmp_path / "one").read_bytes()[8:].split(b"}}")[0].decode(errors="ignore").split('"__metadata__":')[1][:1] + "}"
    )
    assert header == {}
