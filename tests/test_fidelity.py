"""The model is given what was asked, or the user is told: chat templates and tokenizers that lose, double or add words."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from discover.choices import Device
from discover.cli import main
from discover.config import ModelConfig, PromptConfig
from discover.errors import UsageError
from discover.model.fidelity import Rendering, rendering
from discover.model.loading import LoadedModel, load
from discover.model.prompts import conversation_tokens, encoded, prompts_from
from discover.organisms.catalogue import ORGANISMS

CPU = ModelConfig(device=Device.cpu)
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPENING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' "
    "+ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
QWEN3 = CHATML + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endfor %}" + OPENING
)


@pytest.fixture
def model(llama: LoadedModel) -> Iterator[LoadedModel]:
    """The small Llama with a tokenizer of this test's own, whose template a test may set."""
    yield replace(llama, tokenizer=AutoTokenizer.from_pretrained(llama.tokenizer.name_or_path))


def given(model: LoadedModel, written: Any, prompt: str = "Count the boats.", **form: Any) -> Rendering:
    """Return what the model is given for one prompt through a template."""
    model.tokenizer.chat_template = written
    asked = PromptConfig(**form)
    return rendering(encoded([prompt], model.tokenizer, asked), model, asked)


# Chat models as they are


def test_a_template_with_a_system_message_of_its_own_is_told(model: LoadedModel) -> None:
    found = given(model, SMOLLM2)
    assert found.texts == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nCount the boats.<|im_end|>\n<|im_start|>assistant\n",
    )
    assert (found.template, found.system) == (True, None)
    assert found.own_system == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    mine = given(model, SMOLLM2, system="Be kind.")
    assert mine.texts[0].startswith("<|im_start|>system\nBe kind.<|im_end|>\n") and "SmolLM" not in mine.texts[0]
    assert (mine.system, mine.own_system, found.remarks, mine.remarks) == ("Be kind.", None, (), ())


def test_a_reply_can_be_begun(model: LoadedModel) -> None:
    prefix = "<think>\nShort.\n</think>\n"
    assert given(model, QWEN3, reply_prefix=prefix).texts[0].endswith(f"<|im_start|>assistant\n{prefix}")
    assert given(model, None, reply_prefix=" Sure").texts == ("Count the boats. Sure",)


@pytest.mark.parametrize("change", ["| trim", "| upper", "| tojson", "| replace(' ', '  ')"])
def test_space_and_case_that_a_template_changes_lose_no_words(model: LoadedModel, change: str) -> None:
    assert (
        given(model, "{{ messages[0].content " + change + " }}" + OPENING, "Count\nthe boats. ").texts[0].count("<|im_start|>")
        == 1
    )


def test_a_template_without_an_opening_of_the_reply_is_told(model: LoadedModel) -> None:
    (told,) = given(model, CHATML).remarks
    assert 'ignores add_generation_prompt: after the user\'s words it writes "<|im_end|>"' in told
    (told,) = given(model, "[INST] {{ messages[0].content }} [/INST]").remarks
    assert 'it writes "[/INST]". Unless that opens the reply' in told
    (told,) = given(model, "{{ messages[0].content }}").remarks
    assert "it writes nothing" in told
    assert given(model, CHATML + OPENING).remarks == ()


def test_a_template_that_cuts_what_the_model_thought_is_taken(model: LoadedModel) -> None:
    """Templates of reasoning models leave the thoughts out of earlier replies: nothing of the user's is lost."""
    said = ["Hi there.", "<think>\nLong thought.\n</think>\n\nHello.", "More."]
    for cut in ("m.content.split('</think>')[-1]", "(m.content if m.role == 'user' else m.content.split('</think>') | last)"):
        model.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ " + cut + " }}{% endfor %}" + OPENING
        text = model.tokenizer.decode(conversation_tokens(said, model.tokenizer, PromptConfig()))
        assert text == "[user]Hi there.[assistant]\n\nHello.[user]More.<|im_start|>assistant\n"


def test_what_a_template_says_by_itself_is_not_taken_for_a_message(model: LoadedModel) -> None:
    """Words of a prompt that stand in the template, too, are no sign that the prompt does."""
    with pytest.raises(UsageError, match="drops the user message"):
        given(model, "U: Question? Count the boats. Count.", "the boats")
    follow = "Follow each instruction and question.\nUSER: {{ messages[-1].content }}"
    assert given(model, follow).own_system is None
    assert given(model, "### Instruction:\n{{ messages[-1].content }}").own_system is None
    assert given(model, "{% for m in messages %}[{{ m.role }}]{{ m.content | upper }}{% endfor %}").own_system is None


def test_a_template_that_needs_a_system_message_is_given_it(model: LoadedModel) -> None:
    needs = "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}" + CHATML + OPENING
    assert given(model, needs, system="Be kind.").remarks == ()
    with pytest.raises(UsageError, match="system first"):
        given(model, needs)


def test_a_chat_from_a_file_brings_its_own_system_message(model: LoadedModel, tmp_path: Path) -> None:
    turns = [{"role": role, "content": text} for role, text in (("system", "Be kind."), ("user", "Hello."))]
    (tmp_path / "chats.json").write_text(json.dumps([turns]))
    (chat,) = prompts_from([], str(tmp_path / "chats.json"), None)
    found = given(model, SMOLLM2, chat)
    assert (found.system, found.own_system) == ("Be kind.", None) and "SmolLM" not in found.texts[0]


def test_every_reply_of_a_conversation_has_the_prefix_before_it(model: LoadedModel) -> None:
    model.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}>"
    said, form = ["Hi.", "hello", "More."], PromptConfig(reply_prefix="Sure, ")
    text = model.tokenizer.decode(conversation_tokens(said, model.tokenizer, form))
    assert text == "[user]Hi.[assistant]Sure, hello[user]More.>Sure, "


# Which template


def test_one_of_several_templates_is_chosen_by_name(model: LoadedModel) -> None:
    several = {"default": CHATML + OPENING, "rag": "DOCS " + CHATML + OPENING}
    assert given(model, several).texts[0].startswith("<|im_start|>user")
    assert given(model, several, template="rag").texts[0].startswith("DOCS <|im_start|>user")
    with pytest.raises(UsageError, match=r"There is no chat template 'tool'; choose one with prompts.template: default, rag."):
        given(model, several, template="tool")
    with pytest.raises(
        UsageError, match=r"several chat templates and none is called default; choose one with prompts.template: rag, tool."
    ):
        given(model, {"rag": CHATML, "tool": CHATML})
    with pytest.raises(UsageError, match="one chat template without a name"):
        given(model, CHATML, template="rag")


def test_a_template_in_a_file_of_its_own_is_used(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """Processors write it there, and tokenizers do not look: before, such a model was asked in raw text."""
    folder = Path(shutil.copytree(checkpoint("llama"), tmp_path / "model"))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHATML + OPENING}))
    assert load(CPU, folder).tokenizer.chat_template == CHATML + OPENING
    (folder / "chat_template.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be loaded"):
        load(CPU, folder)


def test_the_command_takes_the_values_of_a_template(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(checkpoint("llama"), tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(QWEN3)
    words = [f"model.path={folder}", 'prompts.texts=["Count."]', "prompts.neutral=0", "tracking.mode=disabled", "folder=run"]
    words += ["search.vectors=1", "search.layers=depth", "search.relative_radius=0.1", "speech.tokens=2", "audit.samples=1"]
    words += ["audit.null_vectors=1", "audit.forced_tokens=0", "read.decoded=0"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["discover"])
    main([*words, "prompts.template_kwargs={enable_thinking: false}", "prompts.reply_prefix='Sure, '"])
    noted = json.loads((tmp_path / "run" / "run.json").read_text())
    assert noted["config"]["prompts"]["template_kwargs"] == {"enable_thinking": False}
    assert noted["rendering"]["texts"][0].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\nSure, ")
    for name in ("report.md", "report.html"):
        assert "Sure, " in (tmp_path / "run" / name).read_text()
    # A template that writes the date gives another text on another day; a run keeps what it began with, and says so.
    noted["rendering"]["texts"] = ["Yesterday's text."]
    (tmp_path / "run" / "run.json").write_text(json.dumps(noted))
    main(["resume", "run"])
    again = json.loads((tmp_path / "run" / "run.json").read_text())["rendering"]
    assert again["texts"] == ["Yesterday's text."] and "wrote the prompts otherwise" in again["remarks"][-1]
    main([*[word.replace("folder=run", "folder=other") for word in words], "prompts.template_kwargs.enable_thinking=false"])
    other = json.loads((tmp_path / "other" / "run.json").read_text())
    assert other["config"]["prompts"]["template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("name", ["system", "template"])
def test_options_of_a_template_need_one(model: LoadedModel, name: str) -> None:
    with pytest.raises(UsageError, match=r"no chat template"):
        given(model, None, **{name: "words"})
    with pytest.raises(UsageError, match=rf"prompts.{name} is for a chat template"):
        PromptConfig(chat=False, **{name: "words"})


def test_values_that_are_set_for_every_prompt_are_refused() -> None:
    with pytest.raises(UsageError, match="template_kwargs holds tokenize"):
        PromptConfig(template_kwargs={"tokenize": True, "enable_thinking": False})


# What a tokenizer adds


def ending(tokenizer: PreTrainedTokenizerBase, pattern: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer with tokens put around every text."""
    names = [part for part in pattern.split() if not part.startswith("$")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=pattern, special_tokens=[(name, tokenizer.convert_tokens_to_ids(name)) for name in names]
    )
    return tokenizer


def test_an_end_behind_a_raw_prompt_is_left_off(model: LoadedModel) -> None:
    tokenizer, plain = model.tokenizer, PromptConfig()
    end = tokenizer.eos_token
    alone = conversation_tokens(["Count the boats."], tokenizer, plain)
    ending(tokenizer, f"$A {end}")
    assert tokenizer("Count the boats.")["input_ids"][-1] == tokenizer.eos_token_id
    assert conversation_tokens(["Count the boats."], tokenizer, plain) == alone
    # One that the user typed is the user's.
    assert conversation_tokens([f"Count.{end}"], tokenizer, plain)[-1] == tokenizer.eos_token_id


def test_a_second_first_token_is_left_off(model: LoadedModel) -> None:
    tokenizer, plain = model.tokenizer, PromptConfig()
    tokenizer.bos_token = tokenizer.eos_token
    first = tokenizer.bos_token
    ending(tokenizer, f"{first} $A")
    once = conversation_tokens(["Count."], tokenizer, plain)
    assert once[0] == tokenizer.bos_token_id != once[1]
    assert conversation_tokens([f"{first}Count."], tokenizer, plain) == once
    (told,) = [one for one in given(model, CHATML + OPENING).remarks if "leaves out" in one]
    assert first in told and not [one for one in given(model, first + CHATML + OPENING).remarks if "leaves out" in one]


def test_special_tokens_within_the_users_words_are_told(model: LoadedModel) -> None:
    end = model.tokenizer.eos_token
    (told,) = given(model, CHATML + OPENING, f"Count{end} the boats.").remarks
    assert told == f"Prompt 0 holds {end}, which the tokenizer reads as a special token and not as text."
    # One sentence, however many prompts are written in chat format by hand.
    asked = PromptConfig(chat=False)
    (told,) = rendering(encoded(["Count.", *[f"One{end}"] * 90], model.tokenizer, asked), model, asked).remarks
    assert told.startswith(f"90 prompts (the first is 1) hold {end},")


def test_a_tokenizer_of_another_model_is_refused_or_told(
    model: LoadedModel, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint("llama"), tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    size = model.model.get_input_embeddings().weight.shape[0]
    more = [f"<image_{place}>" for place in range(size - len(tokenizer) + 2)]
    tokenizer.add_special_tokens({"additional_special_tokens": more})
    tokenizer.save_pretrained(folder)
    # As Gemma 3 has it: a token of images that the text model does not embed.
    loaded, form = load(CPU, folder), PromptConfig()
    unknown = encoded([f"Count {more[-1]}."], loaded.tokenizer, form)
    with pytest.raises(UsageError, match=f"the token '{more[-1]}', number {len(tokenizer) - 1}, and the model embeds {size}"):
        loaded.forward(unknown)
    assert "reads as a special token" in rendering(unknown, loaded, form).remarks[0]
    # Many fine-tuned models pad with a token that they do not embed.
    tokenizer.pad_token = more[-1]
    tokenizer.save_pretrained(folder)
    loaded = load(CPU, folder)
    assert loaded.forward(encoded(["Count.", "Count all of the boats."], loaded.tokenizer, form)).isfinite().all()
    tokenizer.pad_token = model.tokenizer.pad_token
    tokenizer.bos_token = more[-1]
    ending(tokenizer, f"{more[-1]} $A").save_pretrained(folder)
    with pytest.raises(UsageError, match=f"the model embeds {size}"):
        load(CPU, folder)
    AutoTokenizer.from_pretrained(ORGANISMS["arithmetic"].folder).save_pretrained(folder)
    with pytest.raises(UsageError, match=f"tokens and the model embeds {size}: it is another model's"):
        load(CPU, folder)


def test_a_tokenizer_with_far_fewer_tokens_is_told(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    size = model.model.get_input_embeddings().weight.shape[0]
    model.model.resize_token_embeddings(2 * size)
    try:
        (told,) = given(model, CHATML + OPENING).remarks
    finally:
        model.model.resize_token_embeddings(size)
    assert f"tokens and the model embeds {2 * size}" in told
