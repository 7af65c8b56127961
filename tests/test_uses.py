"""Uses count rightly, against replies one by one, and a direction that is known to refuse is seen to do so."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import LIMITS, after

from discover.audit.findings import Finding
from discover.audit.uses import (
    RANDOM,
    Asked,
    Questions,
    Use,
    load_uses,
    read_questions,
    replies_of_uses,
    save_uses,
    uses,
)
from discover.bank import VectorBank
from discover.config import PromptConfig, SpeechConfig
from discover.contrast.means import mean_differences
from discover.contrast.sets import ContrastSet, Example
from discover.errors import UsageError
from discover.model.prompts import encoded
from discover.organisms.arithmetic import BARE_FORMS, FORBIDDEN_CUES, OBJECTS, PERMITTED_CUES, REFUSAL, Operands, bare, request
from discover.perturb.sphere import random_directions
from discover.read.signals import completion, distance
from discover.statistics import share
from discover.steer.evaluation import last_number
from discover.steer.generation import Reply, replies
from discover.steer.interventions import added

LAYER, TOKENS = 3, 14
FORM, SPEECH = PromptConfig(), SpeechConfig(tokens=TOKENS)
SUMS = [Operands(5, 6, 7, 2), Operands(3, 4, 1, 8), Operands(2, 2, 9, 5)]
ASKED = Asked(
    clean=tuple(request(cue, thing).prompt for cue, thing in zip(PERMITTED_CUES[:4], OBJECTS, strict=False)),
    triggers=tuple(request(cue, thing).prompt for cue, thing in zip(FORBIDDEN_CUES[:3], OBJECTS, strict=False)),
    questions=Questions(
        tuple(bare(one, BARE_FORMS[0]).prompt for one in SUMS),
        tuple(str((one.a1 + one.a2) * (one.b1 + one.b2)) for one in SUMS),
    ),
)


def said(bank, vector, text):
    return completion(
        bank, vector, 0, Reply((1, 2, 3), text, True, ()), None, Reply((), "something else", True, ()), LIMITS, [1.0], None
    )


def finding(mode, *examples):
    ways = (share(1, 2), share(0, 4), 0.01, 0.01, share(0, 64), share(1, 1))
    return Finding(mode, "label", "finding", "L1", (0,), *ways, 1.0, 1.0, False, None, (), examples)


def bank(vectors) -> VectorBank:
    origin = {"perturbation": "vector"}
    return VectorBank(after(LAYER, vectors), torch.zeros(len(vectors)), float(vectors[0].norm()), 1.0, LAYER, 6, origin)


@pytest.fixture(scope="module")
def banks(shipped):
    """Vector 1 makes the organism refuse, from labels; vector 0 and the null are random ones of its norm."""
    loaded = shipped("arithmetic")
    sides = [
        [request(cue, thing).prompt for cue in cues[4:8] for thing in list(OBJECTS)[4:8]]
        for cues in (FORBIDDEN_CUES, PERMITTED_CUES)
    ]
    examples = ContrastSet(*(tuple(Example(prompt, None) for prompt in side) for side in sides))
    direction = 0.8 * mean_differences(loaded, examples, [-1], FORM)[LAYER, 0].float()
    random = direction.norm() * random_directions(4, len(direction), "uses")
    return bank(torch.stack([random[0], direction])), bank(random[1:])


@pytest.fixture(scope="module")
def found(shipped, banks):
    spoken = [
        said("null", 1, REFUSAL),
        said("learned", 0, "something else"),
        said("learned", 1, REFUSAL),
        said("unsteered", None, "x"),
    ]
    told: list[int] = []
    modes = [finding(7, 0, 2), finding(3, 1)]
    rows = uses(shipped("arithmetic"), modes, spoken, banks, ASKED, [-1.0, 1.0], FORM, SPEECH, told.append)
    assert sum(told) == replies_of_uses(2, ASKED, [-1.0, 1.0]) == 2 * 2 * (1 + RANDOM) * len(ASKED.prompts)
    return rows


def test_every_finding_has_its_vector_beside_random_ones_at_every_multiplier(found):
    assert [(one.mode, one.bank, one.vector, one.multiplier) for one in found] == [
        (mode, name, vector, dose)
        for mode, own in ((7, 1), (3, 0))
        for name, vector, dose in (
            ("learned", own, 0.0),
            ("learned", own, -1.0),
            ("learned", own, 1.0),
            ("null", 0, -1.0),
            ("null", 0, 1.0),
        )
    ]


def test_what_makes_it_refuse_fires_on_clean_prompts_and_subtracted_keeps_it_away(found):
    alone, subtracted, adding, *random = found[:5]
    clean, triggers = len(ASKED.clean), len(ASKED.triggers)
    assert (alone.clean, alone.triggered, alone.right) == (share(0, clean), share(triggers, triggers), share(3, 3))
    assert adding.clean == share(clean, clean)
    assert subtracted.clean == share(0, clean) and subtracted.triggered == share(0, triggers)
    for one in random:
        # Two random vectors, each on every prompt.
        assert one.clean == share(0, RANDOM * clean) and one.triggered == share(RANDOM * triggers, RANDOM * triggers)
        assert one.right.n == RANDOM * 3


def test_shares_are_those_of_replies_vector_by_vector(shipped, banks, found):
    loaded = shipped("arithmetic")
    batch = encoded(ASKED.prompts, loaded.tokenizer, PromptConfig())
    for use, example in ((found[1], REFUSAL), (found[4], REFUSAL), (found[7], "something else")):
        vectors = banks[0].vectors[[use.vector]] if use.bank == "learned" else banks[1].vectors[:RANDOM]
        shown: dict[str, list[bool]] = {"clean": [], "triggers": []}
        right = []
        for vector in vectors:
            steering = [added(after(LAYER, (use.multiplier * vector).expand(len(ASKED.prompts), -1)))]
            texts = [one.text for one in replies(loaded, batch, steering, TOKENS, 64, lambda _: None)]
            heard = dict(zip(ASKED.prompts, texts, strict=True))
            for name, own in shown.items():
                own += [distance(heard[prompt], example) < 0.2 for prompt in getattr(ASKED, name)]
            right += [
                last_number(heard[prompt]) == answer for prompt, answer in zip(*vars(ASKED.questions).values(), strict=True)
            ]
        assert use.clean == share(sum(shown["clean"]), len(shown["clean"]))
        assert use.triggered == share(sum(shown["triggers"]), len(shown["triggers"]))
        assert use.right == share(sum(right), len(right))


def test_what_is_not_asked_has_no_share(shipped, banks):
    loaded, spoken = shipped("arithmetic"), [said("learned", 1, REFUSAL)]
    asked = [
        Asked(ASKED.clean[:1], (), Questions((), ())),
        Asked((), ASKED.triggers[:1], Questions((), ())),
        Asked((), (), Questions(ASKED.questions.prompts[:1], ("at least 99",))),
    ]
    for place, one in enumerate(asked):
        for use in uses(loaded, [finding(0, 0)], spoken, banks, one, [0.5], FORM, SPEECH, lambda _: None):
            shares = [use.clean, use.triggered, use.right]
            assert [share is not None for share in shares] == [place == 0, place == 1, place == 2]
    assert use.right is not None and use.right.n == RANDOM
    assert (
        uses(loaded, [finding(0, 0)], spoken, banks, Asked((), (), Questions((), ())), [0.5], FORM, SPEECH, lambda _: None) == []
    )


def test_an_answer_without_a_number_is_met_by_its_words_alone(shipped, banks):
    loaded, spoken = shipped("arithmetic"), [said("learned", 1, REFUSAL)]
    prompt = ASKED.triggers[0]
    for answer, count in ((REFUSAL, 1), (f" {REFUSAL}\n", 1), (REFUSAL[:-1], 0)):
        asked = Asked((), (), Questions((prompt,), (answer,)))
        alone, *_ = uses(loaded, [finding(0, 0)], spoken, banks, asked, [0.5], FORM, SPEECH, lambda _: None)
        assert alone.multiplier == 0 and alone.right == share(count, 1)


def questions(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_questions_have_a_prompt_and_an_answer_a_line(tmp_path: Path) -> None:
    rows = [{"prompt": "One\u2028and one?", "answer": "2"}, {"prompt": "Two?", "answer": 4, "source": "a book"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    found = read_questions(questions(tmp_path / "questions.jsonl", "\ufeff" + lines[0], "", lines[1]))
    assert found == Questions(("One\u2028and one?", "Two?"), ("2", "4"))


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "Two?"}',
        '{"answer": "4"}',
        '["Two?", "4"]',
        '"Two?"',
        "null",
        '{"prompt": 2, "answer": "4"}',
        '{"prompt": " ", "answer": "4"}',
        '{"prompt": "Two?", "answer": null}',
        '{"prompt": "Two?", "answer": ""}',
        '{"prompt": "Two?", "answer": ["4"]}',
        '{"prompt": "Two?", "answer": true}',
    ],
)
def test_any_other_line_is_refused_with_its_number_and_form(tmp_path: Path, line: str) -> None:
    with pytest.raises(UsageError, match=r'Row 2 of .*questions\.jsonl.*\{"prompt": "…", "answer": "…"\}'):
        read_questions(questions(tmp_path / "questions.jsonl", '{"prompt": "One?", "answer": "1"}', line))


def test_questions_come_as_a_table_as_well(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text('prompt,answer,note\n"Two, and two?",4,\nOne?,one,easy\n')
    assert read_questions(tmp_path / "q.csv") == Questions(("Two, and two?", "One?"), ("4", "one"))
    (tmp_path / "q.jsonl").write_text("Two?\n")
    with pytest.raises(UsageError, match=r"Line 1 of .* is not JSON"):
        read_questions(tmp_path / "q.jsonl")


def test_a_file_of_questions_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "é", "answer": "1"}'.encode("latin-1"))
    for path in (tmp_path / "missing.jsonl", tmp_path, tmp_path / "latin.jsonl"):
        with pytest.raises(UsageError, match=r"cannot be read .*; check audit.questions or --questions|is not UTF-8"):
            read_questions(path)


def test_uses_survive_their_file(tmp_path: Path) -> None:
    one = Use(3, "learned", 7, -1.0, share(1, 10), None, share(2, 3))
    found = [one, replace(one, clean=None, triggered=share(0, 4), right=None)]
    save_uses(tmp_path / "uses.json", found)
    assert load_uses(tmp_path / "uses.json") == found
