"""Labelled examples come in three forms, part without overlap, and keep their pairs."""

import json
from pathlib import Path

import pytest
import torch
from toys import alone

from discover.config import PromptConfig
from discover.contrast.sets import ContrastSet, Example, contrast_set, read_contrast_set, rows_of, shared_ending, texts
from discover.errors import UsageError
from discover.model.prompts import left_padded
from discover.organisms.training import ASSISTANT, END

PLAIN = PromptConfig(chat=False)


def written(path: Path, *rows: object, mark: str = "") -> Path:
    path.write_text(mark + "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def pairs(count: int) -> ContrastSet:
    return ContrastSet(
        tuple(Example(f"question {i}", f"yes {i}") for i in range(count)),
        tuple(Example(f"question {i}", f"no {i}") for i in range(count)),
    )


def unpaired(positive: int, negative: int) -> ContrastSet:
    return ContrastSet(
        tuple(Example(f"bad {i}", None) for i in range(positive)), tuple(Example(f"good {i}", None) for i in range(negative))
    )


def test_a_file_may_mix_all_forms_of_lines(tmp_path: Path) -> None:
    found = read_contrast_set(
        written(
            tmp_path / "set.jsonl",
            {"label": "positive", "prompt": "one"},
            {"completion": "two b", "prompt": "two", "label": "negative"},
            {"prompt": "three", "positive": "three +", "negative": "three -"},
            {"positive": "four +", "negative": "four -"},
        )
    )
    assert found.positive == (Example("one", None), Example("three", "three +"), Example("four +", None))
    assert found.negative == (Example("two", "two b"), Example("three", "three -"), Example("four -", None))


def test_a_mark_at_the_beginning_blank_lines_and_other_line_ends_are_none_of_the_examples(tmp_path: Path) -> None:
    rows = [
        json.dumps({"positive": "a\u2028b", "negative": "c"}, ensure_ascii=False),
        "",
        "   ",
        '{"positive": "d", "negative": "e"}',
    ]
    (tmp_path / "set.jsonl").write_bytes(("\ufeff" + "\r\n".join(rows)).encode())
    found = read_contrast_set(tmp_path / "set.jsonl")
    assert [one.prompt for one in found.positive] == ["a\u2028b", "d"]
    assert [one.prompt for one in found.negative] == ["c", "e"]


@pytest.mark.parametrize(
    "row",
    [
        {"label": "good", "prompt": "x"},
        {"label": "positive"},
        {"label": "positive", "prompt": "x", "comment": "y"},
        {"label": "positive", "prompt": "x", "completion": None},
        {"label": "positive", "prompt": 7},
        {"label": "positive", "prompt": ""},
        {"prompt": "x", "positive": " \n", "negative": "y"},
        {"prompt": "x", "positive": "y"},
        {"positive": "x"},
        {},
        ["positive", "x"],
        "null",
        '"positive"',
    ],
    ids=str,
)
def test_any_other_line_is_refused_by_its_number(tmp_path: Path, row: object) -> None:
    # A blank line before it has a number as well.
    path = written(tmp_path / "set.jsonl", {"positive": "x", "negative": "y"}, "", row)
    with pytest.raises(UsageError, match=r"Row 3 of .*set\.jsonl is no labelled example"):
        read_contrast_set(path)


def test_what_is_no_json_is_refused_by_its_number(tmp_path: Path) -> None:
    path = written(tmp_path / "set.jsonl", {"positive": "x", "negative": "y"}, "", "label: positive")
    with pytest.raises(UsageError, match=r"Line 3 of .*set\.jsonl is not JSON"):
        read_contrast_set(path)


@pytest.mark.parametrize("label", ["positive", "negative"])
def test_one_side_alone_is_refused(tmp_path: Path, label: str) -> None:
    other = {"positive": "negative", "negative": "positive"}[label]
    path = written(tmp_path / "set.jsonl", {"label": label, "prompt": "x"})
    with pytest.raises(UsageError, match=f"no {other} example"):
        read_contrast_set(path)


def test_an_empty_file_holds_no_example(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no positive example"):
        read_contrast_set(written(tmp_path / "set.jsonl", "", ""))


def test_a_file_that_is_missing_a_folder_or_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes('{"positive": "é", "negative": "e"}'.encode("latin-1"))
    for path in (tmp_path / "missing.jsonl", tmp_path, tmp_path / "latin.jsonl"):
        with pytest.raises(UsageError, match=r"cannot be read .*contrast\.file|is not UTF-8"):
            read_contrast_set(path)


def test_a_set_is_paired_where_only_completions_differ() -> None:
    assert pairs(3).paired
    assert not unpaired(3, 3).paired
    assert not contrast_set({1: {"positive": "x", "negative": "x"}}, "here").paired, "prompts alone are no pairs of completions"
    one = pairs(3)
    assert not ContrastSet(one.positive, one.negative[::-1]).paired
    assert not ContrastSet(one.positive, one.negative[:2]).paired


@pytest.mark.parametrize("examples", [pairs(12), unpaired(12, 20)], ids=["paired", "unpaired"])
def test_parts_have_their_sizes_no_overlap_and_come_again(examples: ContrastSet) -> None:
    parts = examples.split([5, 3, 4], 0)
    assert [(len(part.positive), len(part.negative)) for part in parts] == [(5, 5), (3, 3), (4, 4)]
    for side in ("positive", "negative"):
        drawn = [one for part in parts for one in getattr(part, side)]
        assert len(set(drawn)) == 12 and set(drawn) <= set(getattr(examples, side))
    assert parts == examples.split([5, 3, 4], 0) != examples.split([5, 3, 4], 1)


def test_pairs_stay_pairs_and_what_is_unpaired_is_drawn_from_all_of_its_side() -> None:
    for part in pairs(12).split([5, 3, 4], 0):
        assert part.paired
        assert all(one.completion.split()[1] == other.completion.split()[1] for one, other in zip(part.positive, part.negative))
    drawn = {one.prompt for seed in range(20) for one in unpaired(4, 20).split([4], seed)[0].negative}
    assert len(drawn) > 15, "the longer side is not cut to the length of the other before it is drawn from"


def test_too_few_examples_are_refused_and_just_enough_are_not() -> None:
    assert len(unpaired(6, 9).split([3, 2, 1], 0)) == 3
    with pytest.raises(UsageError, match=r"6 positive and 9 negative examples of a kind, and 3 \+ 2 \+ 2 of each"):
        unpaired(6, 9).split([3, 2, 2], 0)


def test_texts_are_prompts_with_their_completions_behind_them(llama, tokenizer) -> None:
    examples = [Example("You are kind.", " Count the boats"), Example("Here", None)]
    batch = texts(llama, examples, PLAIN)
    own = [tokenizer("You are kind.")["input_ids"] + tokenizer(" Count the boats")["input_ids"], tokenizer("Here")["input_ids"]]
    assert batch.prompts == ("You are kind.", "Here")
    for ids, mask, expected in zip(batch.input_ids, batch.attention_mask, own, strict=True):
        assert ids[mask.bool()].tolist() == expected
        assert mask.tolist() == [0] * (len(mask) - len(expected)) + [1] * len(expected)


def test_the_shared_ending_is_what_the_chat_format_puts_after_the_words(shipped) -> None:
    loaded = shipped("arithmetic")
    examples = [Example(prompt, None) for prompt in ("What is a*b?", "Please tell me how to make a wooden kite.", "kite", "a")]
    batch = texts(loaded, examples, PromptConfig())
    tail = loaded.tokenizer(END + ASSISTANT, add_special_tokens=False)["input_ids"]
    assert shared_ending(batch) == len(tail) == 2
    assert all(ids[-2:].tolist() == tail for ids in batch.input_ids)


def test_a_shared_ending_counts_what_all_rows_share_and_no_padding() -> None:
    def ending(*rows: list[int]) -> int:
        return shared_ending(left_padded([""] * len(rows), list(rows), 0))

    assert ending([1, 2, 3], [4, 2, 3]) == 2
    assert ending([1, 2, 3], [4, 2, 5]) == 0
    assert ending([9, 1, 2], [9, 3, 2]) == 1, "what is the same before a difference is no ending"
    assert ending([2, 3], [1, 2, 3]) == 2, "the shorter row has no third token"
    assert ending([0, 3], [3]) == 1, "a padding token that is a word of the other row is none here"
    assert ending([1, 2, 3]) == 3


def test_rows_of_a_batch_are_those_that_are_named(batch) -> None:
    swapped = rows_of(batch, [1, 0, 1])
    assert swapped.prompts == (batch.prompts[1], batch.prompts[0], batch.prompts[1])
    assert torch.equal(swapped.input_ids, batch.input_ids[[1, 0, 1]])
    assert torch.equal(alone(swapped, 1).input_ids, alone(batch, 0).input_ids)
