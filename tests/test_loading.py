"""What is loaded is frozen, whole and nobody's code; everything else is refused in one sentence."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    GenerationConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from discover.choices import Attention, Device, Dtype
from discover.config import ModelConfig
from discover.errors import UsageError
from discover.model.checkpoint import fingerprints
from discover.model.loading import load
from discover.model.prompts import PromptBatch
from discover.steer.generation import replies

CPU = ModelConfig(device=Device.cpu)


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A copy of the small Llama's checkpoint that a test may damage."""
    return shutil.copytree(checkpoint("llama"), tmp_path / "checkpoint")


def edit_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_is_frozen_and_in_evaluation_mode(loaded, tokenizer):
    assert not any(module.training for module in loaded.model.modules())
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert loaded.end_ids == (tokenizer.eos_token_id,)
    assert loaded.context == 128
    assert loaded.identity["dtype"] == "float32" and loaded.identity["device"] == "cpu"


def test_weights_are_those_of_the_file(loaded, checkpoint, family):
    held = load_file(checkpoint(family) / "model.safetensors")
    weights = loaded.model.state_dict()
    shared = held.keys() & weights.keys()
    assert len(shared) >= len(held) - 1 > 20, "GPT-NeoX alone calls one weight, its unembedding, otherwise on disk"
    assert all(torch.equal(weights[name], held[name]) for name in shared)


@pytest.mark.parametrize("rows", [1, 16])
def test_the_last_logits_alone_copy_no_weights_of_the_vocabulary(folder, batch, rows):
    loaded = load(replace(CPU, dtype=Dtype.bfloat16), folder)
    some = PromptBatch((), batch.input_ids[:1].repeat(rows, 1), batch.attention_mask[:1].repeat(rows, 1))
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profiled:
        logits = loaded.forward(some, last=1)
    head = loaded.model.get_output_embeddings().weight
    assert logits.shape == (rows, 1, len(head))
    assert max(event.self_cpu_memory_usage for event in profiled.events()) < head.nbytes * rows


def test_attention_is_chosen_by_us_and_never_by_the_checkpoint(folder, loaded_family):
    """Gemma 2 caps its attention logits, which sdpa cannot; before `auto` its default run ended in an error."""
    assert loaded_family("gemma2").model.config._attn_implementation == "eager"
    edit_config(
        folder, attn_implementation="somebody/kernel", _attn_implementation="somebody/kernel", _experts_implementation="deepgemm"
    )
    with pytest.raises(
        ImportError, match="kernels"
    ):  # What transformers does by itself, were that package installed: fetch code.
        AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    assert load(CPU, folder).model.config._attn_implementation == "sdpa"
    assert load(ModelConfig(device=Device.cpu, attention=Attention.eager), folder).model.config._attn_implementation == "eager"


def test_bfloat16_becomes_float32_on_a_cpu_unless_asked_for(folder):
    LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    assert next(iter(load_file(folder / "model.safetensors").values())).dtype == torch.bfloat16
    assert load(CPU, folder).model.dtype == torch.float32
    assert load(ModelConfig(device=Device.cpu, dtype=Dtype.bfloat16), folder).model.dtype == torch.bfloat16


def test_end_ids_come_from_everywhere_a_checkpoint_names_them(folder):
    GenerationConfig(eos_token_id=[7, 9]).save_pretrained(folder)
    edit_config(folder, eos_token_id=8)
    assert load(CPU, folder).end_ids == (1, 7, 8, 9)


def test_fingerprint_changes_with_one_byte_of_one_weight(folder):
    before = fingerprints(folder)
    assert load(CPU, folder).identity["fingerprints"] == before
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    after = fingerprints(folder)
    assert before.keys() == after.keys() == {"model.safetensors"}
    assert before != after


def test_a_checkpoint_cannot_change_what_is_read_through_its_generation_settings(folder, llama, batch):
    hostile = {"repetition_penalty": 50.0, "do_sample": True, "temperature": 5.0, "suppress_tokens": [2, 3], "min_new_tokens": 8}
    (folder / "generation_config.json").write_text(json.dumps({**hostile, "transformers_version": "5.0.0"}))
    edit_config(folder, repetition_penalty=50.0)
    told = LlamaForCausalLM.from_pretrained(folder).generation_config
    assert told.repetition_penalty == 50.0 and told.do_sample
    expected = replies(llama, batch, (), 12, 2, lambda _: None)
    assert replies(load(CPU, folder), batch, (), 12, 2, lambda _: None) == expected
    penalised = llama.model.generate(
        batch.input_ids,
        attention_mask=batch.attention_mask,
        generation_config=GenerationConfig(max_new_tokens=12, pad_token_id=0, repetition_penalty=50.0),
    )
    assert penalised[0, batch.input_ids.shape[1] :].tolist() != list(expected[0].tokens)


def refusal(path):
    with pytest.raises(UsageError) as told:
        load(CPU, path)
    sentence = str(told.value)
    assert "\n" not in sentence
    return sentence


def test_refuses_a_folder_that_is_not_there(tmp_path):
    assert f"There is no folder {tmp_path / 'nothing'}" in refusal(tmp_path / "nothing")


def test_refuses_a_hub_id_that_cannot_be_reached():
    assert "somebody/no-such-model is neither a built-in organism, nor a folder" in refusal("somebody/no-such-model")


def test_refuses_a_folder_without_a_config(folder):
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder)


def test_refuses_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "holds no weights; a *.safetensors file is needed" in refusal(folder)


def test_refuses_pickle_weights(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "holds only pickle weights (pytorch_model.bin), which can run code" in refusal(folder)


def test_refuses_code_of_its_own_and_runs_none_of_it(folder, tmp_path):
    edit_config(
        folder, model_type="mine", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine", "AutoConfig": "modeling_mine.C"}
    )
    (folder / "modeling_mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\nclass C: pass\n")
    assert "brings its own code, which is never run" in refusal(folder)
    assert not (tmp_path / "ran").exists()


def test_loads_a_known_type_without_the_code_it_brings(folder, tmp_path):
    edit_config(folder, auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
    (folder / "modeling_mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    assert type(load(CPU, folder).model) is LlamaForCausalLM
    assert not (tmp_path / "ran").exists()


def test_refuses_a_type_that_nobody_knows(folder):
    edit_config(folder, model_type="mine")
    assert "is of type 'mine', which this version of transformers does not know" in refusal(folder)


def test_refuses_an_encoder(tmp_path):
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(tmp_path)
    assert "is of type 'bert', no causal language model; a decoder is needed" in refusal(tmp_path)


def test_refuses_an_encoder_with_a_decoder(tmp_path):
    T5ForConditionalGeneration(T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path
    )
    assert "is of type 't5', no causal language model; a decoder is needed" in refusal(tmp_path)


def test_refuses_a_file_that_is_no_checkpoint(folder):
    assert "is a file and no GGUF" in refusal(folder / "model.safetensors")


def test_refuses_a_weight_file_that_ends_early(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "cannot be loaded: " in refusal(folder)


def test_refuses_weights_that_would_be_drawn_at_random(folder):
    """transformers only warns, and an audit would then read noise."""
    edit_weights(folder, lambda weights: weights.pop("model.layers.2.mlp.down_proj.weight"))
    assert "lacks 1 of the weights of a 'llama' model, for example model.layers.2.mlp.down_proj.weight" in refusal(folder)


def test_tied_weights_are_not_missed(folder):
    edit_config(folder, tie_word_embeddings=True)
    edit_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    model = load(CPU, folder).model
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize(
    "entries", [{"hidden_size": "wide"}, {"hidden_size": 64}, {"num_attention_heads": 0}, {"model_type": ["llama"]}]
)
def test_refuses_a_config_that_makes_no_sense(folder, entries):
    edit_config(folder, **entries)
    assert "The checkpoint" in refusal(folder)


@pytest.mark.parametrize("text", ["[]", "{}", "{", "3", ""])
def test_refuses_a_config_that_is_none(folder, text):
    (folder / "config.json").write_text(text)
    assert str(folder) in refusal(folder)


def test_refuses_a_checkpoint_without_a_tokenizer(folder):
    for path in folder.glob("*token*"):
        path.unlink()
    assert "cannot be loaded: " in refusal(folder)


def test_refuses_a_tokenizer_that_knows_no_word(checkpoint, family, tmp_path):
    """For some families transformers makes one out of nothing."""
    folder = shutil.copytree(checkpoint(family), tmp_path / "checkpoint")
    for path in folder.glob("*token*"):
        path.unlink()
    assert "tokenizer" in refusal(folder)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_refuses_a_gpu_where_there_is_none(folder):
    with pytest.raises(UsageError, match=r"model\.device=cuda was asked for and no GPU is visible"):
        load(ModelConfig(device=Device.cuda), folder)


@pytest.mark.parametrize(
    ("dtype", "factor", "told"),
    [
        (Dtype.float16, 1e5, "In float16 .* its activations are too large; use model.dtype=bfloat16"),
        (Dtype.bfloat16, 1e5, None),
        (Dtype.float16, 1.0, None),
        (Dtype.float32, torch.nan, "in float32: its weights are damaged"),
    ],
)
def test_a_model_that_puts_out_no_numbers_is_refused_by_its_dtype(folder, dtype, factor, told):
    """Before, the architecture was blamed by a run, and generation gave padding without a word."""

    def scale(weights):
        # The MLP's output passes the largest float16, 65,504, and its norm scales it back.
        weights["model.layers.1.mlp.down_proj.weight"] *= factor
        weights["model.layers.1.mlp.up_proj.weight"] *= factor

    edit_weights(folder, scale)
    if told is None:
        assert load(replace(CPU, dtype=dtype), folder).model.dtype is getattr(torch, dtype.value)
        return
    with pytest.raises(UsageError, match=told):
        load(replace(CPU, dtype=dtype), folder)
