"""An adapter's folder is its base with every one of its weights merged, or it is refused."""

import json
import shutil
import sys

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from discover.choices import Device, Dtype
from discover.cli import main
from discover.config import ModelConfig
from discover.errors import UsageError
from discover.model.checkpoint import fingerprints
from discover.model.loading import load

CPU = ModelConfig(device=Device.cpu)
IDS = torch.tensor([[5, 40, 50, 60, 70, 80, 90, 100]])


def lora(**entries):
    return LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **entries)


def plant(base, folder, config):
    """Write an adapter whose every weight is random, and return the logits of the model with it, not merged."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    wrapped = get_peft_model(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if weight.requires_grad:
                weight.copy_(weight + 0.3 * torch.randn_like(weight) if "magnitude" in name else 0.3 * torch.randn_like(weight))
        logits = wrapped.eval()(IDS).logits
    wrapped.save_pretrained(folder)
    return logits


@pytest.fixture
def base(checkpoint):
    return checkpoint("llama")


@pytest.fixture
def adapter(base, tmp_path):
    """A folder with a plain adapter of the small Llama, which a test may damage."""
    plant(base, tmp_path / "adapter", lora())
    return tmp_path / "adapter"


def edit_config(folder, **entries):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def edit_weights(folder, change):
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def refusal(path, config=CPU):
    with pytest.raises(UsageError) as caught:
        load(config, path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    "entries",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True},
        {"rank_pattern": {"layers.1.mlp.down_proj": 2}, "alpha_pattern": {"layers.0.self_attn.q_proj": 3}},
        {"modules_to_save": ["lm_head"]},
        {"layers_to_transform": [1, 2]},
    ],
    ids=str,
)
def test_is_the_model_that_the_adapter_makes_of_its_base(base, tmp_path, entries):
    expected = plant(base, tmp_path / "adapter", lora(**entries))
    held = load(CPU, tmp_path / "adapter").model
    assert torch.allclose(held(IDS).logits, expected, atol=1e-4)
    assert not torch.allclose(held(IDS).logits, load(CPU, base).model(IDS).logits, atol=1e-2)
    assert not any("lora" in name for name, _ in held.named_modules()), "merged, so that nothing of peft is left in the model"
    assert not any(weight.requires_grad for weight in held.parameters())


def test_a_change_of_every_linear_map_and_the_embedding_is_taken_whole(base, tmp_path):
    expected = plant(base, tmp_path / "adapter", LoraConfig(r=2, target_modules=["embed_tokens", "v_proj", "lm_head"]))
    assert torch.allclose(load(CPU, tmp_path / "adapter").model(IDS).logits, expected, atol=1e-4)


def test_is_merged_in_float32_and_rounded_once(base, adapter):
    rounded = load(ModelConfig(device=Device.cpu, dtype=Dtype.bfloat16), adapter).model
    assert rounded.dtype == torch.bfloat16
    for name, weight in load(CPU, adapter).model.state_dict().items():
        assert torch.equal(rounded.state_dict()[name], weight.bfloat16()), name


def test_record_holds_what_identifies_base_and_adapter(base, adapter):
    identity = load(CPU, adapter).identity
    assert identity["base"] == str(base)
    held = identity["fingerprints"]
    assert held.keys() == {"base/model.safetensors", "adapter_model.safetensors", "adapter_config.json"}
    assert held["base/model.safetensors"] == fingerprints(base)["model.safetensors"]
    edit_config(adapter, lora_alpha=9)
    changed = load(CPU, adapter).identity["fingerprints"]
    assert {name for name in held if held[name] != changed[name]} == {"adapter_config.json"}, "it says how much is merged"


def test_a_base_that_has_moved_is_named_by_an_option(base, adapter, tmp_path):
    expected = load(CPU, adapter)
    moved = shutil.copytree(base, tmp_path / "moved")
    edit_config(adapter, base_model_name_or_path=str(tmp_path / "gone"))
    told = refusal(adapter)
    assert "The base model of the adapter" in told and "model.base" in told and str(tmp_path / "gone") in told
    held = load(ModelConfig(device=Device.cpu, base=str(moved)), adapter)
    assert held.identity["fingerprints"] == expected.identity["fingerprints"], "the same model wherever its base stands"
    assert torch.equal(held.model(IDS).logits, expected.model(IDS).logits)
    edit_config(adapter, base_model_name_or_path=None)
    assert "does not say which model it is for; give that with model.base" in refusal(adapter)


def test_base_may_be_a_built_in_name(tmp_path):
    from discover.model.packaged import resolved

    expected = plant(resolved("conduct"), tmp_path / "adapter", lora())
    edit_config(tmp_path / "adapter", base_model_name_or_path="conduct")
    held = load(CPU, tmp_path / "adapter")
    assert torch.allclose(held.model(IDS).logits, expected, atol=1e-3)
    assert held.tokenizer.chat_template == load(CPU, resolved("conduct")).tokenizer.chat_template


def test_a_base_without_an_adapter_is_refused(base):
    assert f"model.base={base} is for an adapter, and {base} is none" in refusal(
        base, ModelConfig(device=Device.cpu, base=str(base))
    )


def test_refuses_an_adapter_of_an_adapter(base, adapter, tmp_path):
    plant(base, tmp_path / "second", lora())
    edit_config(tmp_path / "second", base_model_name_or_path=str(adapter))
    assert "holds an adapter, not a model" in refusal(tmp_path / "second")


def test_refuses_an_adapter_of_another_width(checkpoint, adapter, loaded_family):
    wide = ModelConfig(device=Device.cpu, base="conduct")
    assert "does not fit" in refusal(adapter, wide)


def test_refuses_an_adapter_of_another_family(checkpoint, adapter):
    assert "does not fit" in refusal(adapter, ModelConfig(device=Device.cpu, base=str(checkpoint("gpt2"))))


def test_refuses_weights_without_a_place(adapter, base):
    """peft takes what matches and passes over the rest; what is audited then is not what was published."""

    def renamed(weights):
        for name in [name for name in weights if ".layers.2." in name]:
            weights[name.replace(".layers.2.", ".layers.7.")] = weights.pop(name)

    edit_weights(adapter, renamed)
    assert "weights without a place in its base model" in refusal(adapter)


def test_refuses_every_weight_under_another_name(adapter):
    """A prefix too many, and peft merges nothing at all."""

    def renamed(weights):
        for name in list(weights):
            weights[name.replace("base_model.model.", "base_model.model.module.")] = weights.pop(name)

    edit_weights(adapter, renamed)
    assert "has 16 of 16 weights without a place in its base model" in refusal(adapter)


def test_refuses_an_adapter_that_lacks_weights(adapter):
    edit_weights(adapter, lambda weights: weights.pop("base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"))
    assert "lacks 1 of its weights" in refusal(adapter)


def test_refuses_numbers_that_are_none(adapter):
    edit_weights(adapter, lambda weights: next(iter(weights.values())).fill_(float("nan")))
    assert "adapter" in refusal(adapter)


def test_refuses_pickle_weights(adapter):
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    assert "holds only pickle weights (adapter_model.bin), which can run code" in refusal(adapter)


def test_refuses_an_adapter_without_weights(adapter):
    (adapter / "adapter_model.safetensors").unlink()
    assert "holds no weights; adapter_model.safetensors is needed" in refusal(adapter)


def test_refuses_another_kind_of_adapter(base, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])).save_pretrained(
        tmp_path / "adapter"
    )
    assert "is of type 'IA3'; only LoRA can be merged" in refusal(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "uses megatron_config"),
        ({"alora_invocation_tokens": [3]}, "uses alora_invocation_tokens"),
        ({"use_tomorrows_idea": True}, "uses use_tomorrows_idea, which this version of peft does not know"),
        ({"target_modules": 3}, "does not fit"),
        ({"r": 0}, "does not fit"),
    ],
)
def test_refuses_options_that_would_not_be_followed(adapter, entries, told):
    edit_config(adapter, **entries)
    assert told in refusal(adapter)


@pytest.mark.parametrize("text", ["[]", "{}", "{", "3", ""])
def test_refuses_a_config_that_is_none(adapter, text):
    (adapter / "adapter_config.json").write_text(text)
    assert str(adapter) in refusal(adapter)


def test_the_tokenizer_beside_an_adapter_is_its_own(adapter, base):
    tokenizer = load(CPU, base).tokenizer
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(adapter)
    assert load(CPU, adapter).tokenizer.chat_template == tokenizer.chat_template
    tokenizer.add_tokens([f"<new {number}>" for number in range(9)])
    tokenizer.save_pretrained(adapter)
    assert "more than its base model" in refusal(adapter)


def test_run_resume_and_steer_keep_to_base_and_adapter(base, adapter, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["discover"])
    moved, folder = shutil.copytree(base, tmp_path / "moved"), tmp_path / "run"
    words = ["search.vectors=2", "audit.null_vectors=2", "speech.tokens=2", "audit.forced_tokens=0", "read.decoded=0"]
    texts = ["prompts.texts=[Count the boats please]", "tracking.mode=disabled", "model.device=cpu", f"folder={folder}"]
    edit_config(adapter, base_model_name_or_path=None)
    main([f"model.path={adapter}", f"model.base={moved}", *words, *texts])
    kept = json.loads((folder / "run.json").read_text())["model"]
    assert kept["base"] == str(moved) and kept["fingerprints"] == {
        **load(ModelConfig(device=Device.cpu, base=str(moved)), adapter).identity["fingerprints"]
    }
    capsys.readouterr()
    elsewhere = shutil.copytree(adapter, tmp_path / "elsewhere")
    for named in ([], ["--model", str(elsewhere)]):
        main(["steer", str(folder), "--add", "0:1", "--prompt", "Count the boats", *named])
        assert "steered" in capsys.readouterr().out
    main(["resume", str(folder)])
    edit_config(adapter, lora_alpha=1)
    with pytest.raises(SystemExit) as ended:
        main(["resume", str(folder)])
    assert ended.value.code == 2 and "changed since: the model's fingerprints" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["steer", str(folder), "--add", "0:1", "--prompt", "Count the boats"])
    assert ended.value.code == 2 and "the weights of" in capsys.readouterr().err
