"""Files that users bring: rows of JSON lines, JSON, CSV or plain text, told apart by the extension of their names."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from discover.errors import UsageError

SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_rows(path: Path, option: str) -> dict[int, Any]:
    """Return the rows of a file, each under the number of the line on which it ends; of a JSON list under its place, from 1.

    A row of JSON is what it says, one of a table its cells by the names of their columns, empty ones left out, and one of any
    other file a line of text.

    Args:
        path: .jsonl or .ndjson, .json with a list, .csv or .tsv whose first line names the columns; anything else is text.
        option: where the file was named, for errors.

    Raises:
        UsageError: it cannot be read, or is not what its extension says; a text file holds JSON.
    """
    text, kind = _text(path, option), path.suffix.lower()
    if kind == ".json":
        held = _json(text, str(path))
        if not isinstance(held, list):
            raise UsageError(f"{path} holds no list; give a JSON list, or a row a line as .jsonl.")
        return dict(enumerate(held, 1))
    # Not `splitlines`: a row may hold what that takes for an end.
    lines = {number: line for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    if kind in (".jsonl", ".ndjson"):
        return {number: _json(line, f"Line {number} of {path}") for number, line in lines.items()}
    if kind in SEPARATORS:
        return _table(path, text, SEPARATORS[kind])
    if (text.lstrip()[:1] in ("{", "[") and all(_is_json(line) for line in lines.values())) or _is_json(text):
        raise UsageError(f"{path} holds JSON under the name of a text; call it .jsonl (a row a line) or .json (a list).")
    return {number: line.rstrip("\r") for number, line in lines.items()}


def _text(path: Path, option: str) -> str:
    try:
        # Some editors begin a file with a byte-order mark.
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"The file {path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from error
    except OSError as error:
        raise UsageError(f"The file {path} cannot be read ({error.strerror}); check {option}.") from error


def _table(path: Path, text: str, separator: str) -> dict[int, dict[str, str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    found = {}
    try:
        names = list(reader.fieldnames or ())
        if len(set(names)) < len(names):
            raise UsageError(f"Two columns of {path} have one name ({', '.join(names)}); name each otherwise.")
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(
                    f"Line {reader.line_num} of {path} does not have the columns named in the first line; "
                    "quote cells that hold the separator."
                )
            found[reader.line_num] = {name: cell for name, cell in row.items() if cell.strip()}
    except csv.Error as error:
        raise UsageError(f"Line {reader.line_num} of {path} is not a row of a table ({error}); mend it.") from error
    return found


def _json(text: str, where: str) -> Any:
    try:
        held = json.loads(text)
        json.dumps(held, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where} holds half of a character (a lone surrogate); write it whole.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{where} is not JSON ({error}); mend it, or call a file of JSON lines .jsonl, of plain lines .txt."
        ) from error
    return held


def _is_json(text: str) -> bool:
    """Return whether a text is a list or an object of JSON: numbers and quoted words are text as well."""
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False
