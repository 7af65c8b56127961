"""Prompts arrive as they were written."""

import json

import pytest
import torch
from conftest import PROMPTS

from discover.config import PromptConfig
from discover.errors import UsageError
from discover.model.prompts import conversation_tokens, encoded, left_padded, prompts_from


def test_a_file_gives_one_prompt_a_line_after_those_of_the_command(tmp_path):
    file = tmp_path / "prompts.txt"
    # A byte-order mark, Windows line ends, a blank line, and characters that Python takes for line ends.
    file.write_bytes("\ufeffone\r\n\r\ntwo\\nlines\nthree\u2028still three\x0cand on".encode())
    assert prompts_from(["zero"], str(file), None) == ["zero", "one", "two\nlines", "three\u2028still three\x0cand on"]


def test_bad_prompts_are_refused(tmp_path):
    latin = tmp_path / "latin.txt"
    latin.write_bytes("café".encode("latin-1"))
    for texts, file, told in (
        ([], None, "There is no prompt"),
        (["fine", " \n"], None, "A prompt is empty"),
        ([], str(tmp_path / "absent"), "cannot be read"),
        ([], str(latin), "is not UTF-8 .byte 3."),
    ):
        with pytest.raises(UsageError, match=told):
            prompts_from(texts, file, None)


def test_padding_stands_on_the_left_and_positions_count_tokens(tokenizer):
    batch = encoded(PROMPTS, tokenizer, PromptConfig())
    rows = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    for row, ids, mask, positions in zip(rows, batch.input_ids, batch.attention_mask, batch.position_ids, strict=True):
        assert ids[len(ids) - len(row) :].tolist() == row and mask.sum() == len(row)
        assert positions[mask.bool()].tolist() == list(range(len(row)))
    assert torch.equal(batch.repeated(2).input_ids, torch.cat([batch.input_ids] * 2))


def test_a_reply_stands_in_the_same_columns_after_every_prompt(tokenizer):
    batch = encoded(PROMPTS, tokenizer, PromptConfig())
    length = batch.input_ids.shape[1]
    longer = batch.continued([[7], [8, 9]], 0)
    assert torch.equal(longer.input_ids[:, :length], batch.input_ids)
    assert longer.input_ids[:, length:].tolist() == [[7, 0], [8, 9]]
    assert longer.attention_mask[:, length:].tolist() == [[1, 0], [1, 1]]
    none = batch.continued([[], []], 0)
    assert torch.equal(none.input_ids, batch.input_ids) and torch.equal(none.attention_mask, batch.attention_mask)


def test_a_chat_template_is_used_where_there_is_one_and_asked_for(tokenizer):
    with pytest.raises(UsageError, match="no chat template"):
        encoded(PROMPTS, tokenizer, PromptConfig(chat=True))
    with pytest.raises(UsageError, match="no chat template"):
        encoded(PROMPTS, tokenizer, PromptConfig(system="Be kind."))
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    try:
        chat = encoded(["You are"], tokenizer, PromptConfig(system="Be kind."))
        plain = encoded(["You are"], tokenizer, PromptConfig(chat=False))
    finally:
        tokenizer.chat_template = None
    assert tokenizer.decode(chat.input_ids[0]) == "[system]Be kind.[user]You are>"
    assert left_padded(["You are"], [tokenizer("You are")["input_ids"]], 0).input_ids.tolist() == plain.input_ids.tolist()


def test_a_conversation_goes_through_the_template_or_stands_as_text(tokenizer):
    said = ["Hello.", "Yes?", "Count.", "One", "More."]
    plain = conversation_tokens(said, tokenizer, PromptConfig())
    assert tokenizer.decode(plain) == "Hello.Yes?\nCount.One\nMore."
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' and messages[0].content == 'no' %}{{ raise_exception('no system here') }}{% endif %}"
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    try:
        chat = conversation_tokens(said, tokenizer, PromptConfig(system="Be kind."))
        assert conversation_tokens(said, tokenizer, PromptConfig(chat=False)) == plain
        with pytest.raises(UsageError, match=r"refuses this conversation \(no system here\); leave out prompts.system"):
            conversation_tokens(said, tokenizer, PromptConfig(chat=True, system="no"))
    finally:
        tokenizer.chat_template = None
    assert tokenizer.decode(chat) == "[system]Be kind.[user]Hello.[assistant]Yes?[user]Count.[assistant]One[user]More.>"


TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Count\nthe boats."},
]
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"


def test_json_that_is_nested_without_end_is_told(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="is not JSON"):
        prompts_from([], str(tmp_path / "a.json"), None)


def test_a_column_is_for_rows_that_have_some(tmp_path):
    (tmp_path / "a.jsonl").write_text('"one"')
    with pytest.raises(UsageError, match=r"has no columns, and prompts.column=text names one"):
        prompts_from([], str(tmp_path / "a.jsonl"), "text")


def test_a_prompt_of_several_turns_goes_through_the_template(tokenizer, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in (TURNS, {"messages": TURNS[1:]})))
    whole, later = prompts_from([], str(tmp_path / "a.jsonl"), None)
    assert whole == "system: Be kind.\nuser: Hello.\nassistant: Yes?\nuser: Count\nthe boats."
    plain = tokenizer.decode(conversation_tokens([later, "One.", "More."], tokenizer, PromptConfig()))
    assert plain == "Hello.Yes?\nCount\nthe boats.One.\nMore."
    with pytest.raises(UsageError, match="system message needs a chat template"):
        conversation_tokens([whole], tokenizer, PromptConfig())
    tokenizer.chat_template = TEMPLATE
    try:
        chat = conversation_tokens([whole, "One.", "More."], tokenizer, PromptConfig())
        mine = conversation_tokens([later], tokenizer, PromptConfig(system="Be brief."))
        with pytest.raises(UsageError, match="leave one of them out"):
            conversation_tokens([whole], tokenizer, PromptConfig(system="Be brief."))
    finally:
        tokenizer.chat_template = None
    said = "[system]Be kind.[user]Hello.[assistant]Yes?[user]Count\nthe boats.[assistant]One.[user]More.>"
    assert tokenizer.decode(chat) == said
    assert tokenizer.decode(mine) == "[system]Be brief.[user]Hello.[assistant]Yes?[user]Count\nthe boats.>"
    batch = encoded([later], tokenizer, PromptConfig())
    assert batch.prompts == (later,) and batch.repeated(2).prompts[1].messages == later.messages
