"""Inputs that people brought, one a row in tests/cases: what the model is given, what is refused, and what is told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from discover.config import PromptConfig
from discover.errors import UsageError
from discover.model.fidelity import Rendering, rendering
from discover.model.loading import LoadedModel
from discover.model.prompts import conversation_tokens, encoded, prompts_from

CASES = Path(__file__).parent / "cases"
HELLO = ("Hello.", "<think>\nA greeting.\n</think>\n\nYes?", "Count the boats.")


def rows(name: str) -> list[dict[str, Any]]:
    """Return the cases of a file, one a line."""
    return [json.loads(line) for line in (CASES / name).read_text(encoding="utf-8").splitlines()]


def given(llama: LoadedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, form: PromptConfig) -> Rendering:
    """Return what a model with that tokenizer is given."""
    model = replace(llama, tokenizer=tokenizer)
    return rendering(encoded([prompt], tokenizer, form), model, form)


@pytest.mark.parametrize("case", rows("chat_templates.jsonl"), ids=lambda case: case["case"])
def test_a_chat_template_gives_what_was_asked_or_says_why_not(llama: LoadedModel, case: dict[str, Any]) -> None:
    """Those that are refused or told were a traceback once, or a model that was asked something else without a word."""
    assert {"text", "refused", "remark"} & case.keys()
    tokenizer = AutoTokenizer.from_pretrained(llama.tokenizer.name_or_path)
    tokenizer.chat_template = case["template"]
    form, prompt = PromptConfig(**case.get("form", {})), case.get("prompt", "Count the boats.")
    if "refused" in case:
        with pytest.raises(UsageError) as refused:
            given(llama, tokenizer, prompt, form)
        assert case["refused"] in str(refused.value) and "\n" not in str(refused.value)
        return
    found = given(llama, tokenizer, prompt, form)
    if "text" in case:
        assert found.texts == (case["text"],)
    if "remark" in case:
        assert case["remark"] in " ".join(found.remarks)


@pytest.mark.parametrize("case", rows("prompt_files.jsonl"), ids=lambda case: f"{case['file']}: {case['text'][:40]}")
def test_a_file_of_prompts_is_read_or_told_with_the_place(tmp_path: Path, case: dict[str, Any]) -> None:
    """Before, the raw lines of rows were the prompts."""
    file = tmp_path / case["file"]
    file.write_bytes(case["text"].encode())
    if "refused" in case:
        with pytest.raises(UsageError, match=case["refused"]):
            prompts_from([], str(file), None)
    else:
        assert prompts_from([], str(file), case.get("column")) == case["prompts"]


# Three chat models: tokenizers of few words with the special tokens, and the way of putting them, of SmolLM2, Gemma and Qwen3


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(CASES / "tokenizers" / name)


def ids_and_text(name: str, said: list[str], **form: Any) -> tuple[list[int], str]:
    tokenizer = tokenizer_of(name)
    ids = conversation_tokens(said, tokenizer, PromptConfig(**form))
    return ids, tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("name", "form", "text"),
    [
        (
            "smollm2",
            {},
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nCount the boats.<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "smollm2",
            {"system": "Be kind."},
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nCount the boats.<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("gemma", {}, "<bos><start_of_turn>user\nCount the boats.<end_of_turn>\n<start_of_turn>model\n"),
        ("gemma", {"chat": False}, "<bos>Count the boats."),
        ("qwen3", {}, "<|im_start|>user\nCount the boats.<|im_end|>\n<|im_start|>assistant\n"),
        (
            "qwen3",
            {"template_kwargs": {"enable_thinking": False}, "reply_prefix": "Sure"},
            "<|im_start|>user\nCount the boats.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nSure",
        ),
        ("qwen3", {"chat": False}, "Count the boats."),
    ],
)
def test_three_chat_models_are_given_their_format(llama: LoadedModel, name: str, form: dict[str, Any], text: str) -> None:
    ids, decoded = ids_and_text(name, ["Count the boats."], **form)
    assert decoded == text
    tokenizer = tokenizer_of(name)
    # Every marker is one token, and a first token stands there once.
    assert tokenizer.bos_token_id is None or name == "smollm2" or ids.count(tokenizer.bos_token_id) == 1
    markers = [token for token in tokenizer.all_special_ids if token != tokenizer.pad_token_id]
    assert not form.get("chat", True) or len([token for token in ids if token in markers]) >= 2
    assert given(llama, tokenizer, "Count the boats.", PromptConfig(**form)).texts == (text,)


def test_three_chat_models_go_on_with_a_conversation() -> None:
    """Thoughts of an earlier reply are cut by the template of a reasoning model, and nothing of the user's is."""
    _, smollm2 = ids_and_text("smollm2", list(HELLO))
    end = "<|im_end|>\n<|im_start|>"
    assert smollm2.endswith(f"assistant\n{HELLO[1]}{end}user\n{HELLO[2]}{end}assistant\n")
    _, gemma = ids_and_text("gemma", ["Hello.", "Yes?", "Count the boats."])
    assert gemma == (
        "<bos><start_of_turn>user\nHello.<end_of_turn>\n<start_of_turn>model\nYes?<end_of_turn>\n"
        "<start_of_turn>user\nCount the boats.<end_of_turn>\n<start_of_turn>model\n"
    )
    _, qwen3 = ids_and_text("qwen3", list(HELLO))
    assert "A greeting." not in qwen3 and "assistant\nYes?<|im_end|>" in qwen3 and qwen3.count("Count the boats.") == 1


def test_a_model_that_takes_no_system_message_says_so() -> None:
    with pytest.raises(UsageError, match=r"System role not supported.*leave out prompts.system"):
        ids_and_text("gemma", ["Hello."], system="Be kind.")
