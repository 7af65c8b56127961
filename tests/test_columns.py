"""What the page draws from: every text once, what there is room for, and one mode for every vector."""

import json
from dataclasses import replace

import pytest
from test_html import CHEESE, OWN, completion, finding, own_reply, read_record, record, small_record

from discover.read.modes import Mode
from discover.report import columns
from discover.report.columns import listed, modes_of_vectors, page_data


def test_every_text_and_every_utterance_stands_once() -> None:
    said = [own_reply(), *(completion(vector=vector, steered_surprise=vector / 10) for vector in range(300))]
    data = page_data(record(said, [], [], n=300))
    assert data["texts"].count(CHEESE) == 1 and len(data["completions"]["said"]) == 301
    assert len(data["said"]["text"]) == 2
    assert len(json.dumps(data["completions"])) < 301 * 30


def test_what_there_is_no_room_for_is_drawn_or_random(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [
        completion("of chance", "null", 0),
        completion("drawn", vector=0, sample=1),
        completion("greedy", vector=0),
        completion("forced", "forced", 0),
        own_reply(),
    ]
    assert listed(said) == [0, 1, 2, 3, 4]
    room = 3 * columns.ROW + len("greedy") + len("forced") + len(OWN)
    monkeypatch.setattr(columns, "ROOM", room)
    assert listed(said) == [2, 3, 4]
    monkeypatch.setattr(columns, "ROOM", room + columns.ROW + len("of chance"))
    assert listed(said) == [0, 2, 3, 4], "a random direction's greedy reply is kept before what a vector was drawn to say"


def test_a_vector_stands_for_the_strongest_mode_that_counts_it() -> None:
    said = [own_reply(), completion("whole", vector=0), completion("ruined", vector=0, prompt=1), completion(OWN, vector=1)]
    said += [completion("by chance", "null", 0), completion(OWN, "null", 1)]
    modes = [
        Mode("nothing happened", "unchanged", (), (0, 3, 5), (0, 3, 5), None),
        Mode("ruined", "degenerate", (), (2,), (2,), None),
        Mode("whole", "coherent", (), (1,), (1,), None),
        Mode("by chance", "coherent", (), (4,), (4,), None),
    ]
    found = [finding(2, "finding", (0,), 2, 1, "whole"), finding(1, "broken", (0,), 2, 2, "ruined")]
    chosen = modes_of_vectors(record(said, modes, found, n=2))
    assert chosen == {("learned", 0): 2, ("learned", 1): 0, ("null", 0): 3, ("null", 1): 0}


def test_random_vectors_that_stand_beside_others_are_told_at_length() -> None:
    made = read_record(small_record())
    for decodings, expected in ((made.decodings, set(range(10))), ([], set(range(10)))):
        data = page_data(replace(made, decodings=decodings))["vectors"]
        rows = list(zip(data["bank"], data["vector"], data["doses"], strict=True))
        assert {vector for bank, vector, doses in rows if bank == 1 and doses} == expected
        assert all(doses for bank, _, doses in rows if bank == 0)
    many = [*made.glances, *(replace(made.glances[-1], vector=vector) for vector in range(10, 40))]
    data = page_data(replace(made, glances=many))["vectors"]
    assert sum(1 for bank, doses in zip(data["bank"], data["doses"], strict=True) if bank == 1 and doses) == 10
    assert sum(1 for bank, kl in zip(data["bank"], data["kl"], strict=True) if bank == 1 and kl is not None) == 40


def test_line_breaks_within_tokens_can_be_seen() -> None:
    made = read_record(small_record())
    boosted = tuple(replace(one, token="\n\t") for one in made.glances[0].boosted)
    data = page_data(replace(made, glances=[replace(made.glances[0], boosted=boosted)]))
    assert "⏎⇥" in data["texts"]
