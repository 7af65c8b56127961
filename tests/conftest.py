"""Small random models of six families as real checkpoints on disk; no test may reach the network."""

import os

# Libraries read this when they are imported, so it must come first. One thread each: workers stand side by side, one a core.
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true", TOKENIZERS_PARALLELISM="false")
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import ipaddress
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import Browser
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from discover.choices import Device
from discover.config import ModelConfig, PromptConfig
from discover.model.loading import LoadedModel, load
from discover.model.prompts import PromptBatch, encoded
from discover.organisms.catalogue import ORGANISMS

WIDTH, BLOCKS, HEADS, CONTEXT = 32, 4, 4, 128
LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
    # Windows shorter than the prompts: a replay that lost the mask would see further back.
    "mistral": {**LLAMA_LIKE, "sliding_window": 5},
    "gpt2": {"n_embd": WIDTH, "n_layer": BLOCKS, "n_head": HEADS, "n_positions": CONTEXT},
    "gpt_neox": {**LLAMA_LIKE, "rotary_pct": 0.5},
    "gemma2": {**LLAMA_LIKE, "sliding_window": 5, "query_pre_attn_scalar": 8},
}
MORE_FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": LLAMA_LIKE,
    "olmo2": LLAMA_LIKE,
    "phi": LLAMA_LIKE,
    "starcoder2": LLAMA_LIKE,
    "gemma3_text": {**LLAMA_LIKE, "sliding_window": 5, "query_pre_attn_scalar": 8},
    "mixtral": {**LLAMA_LIKE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        **LLAMA_LIKE,
        **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    },
}
"""Not in every test: each takes time, and these share their parts with those above."""
LINES = ("Here is a sum: 12 + 30 = 42.", "The harbour sleeps below the hill, and nobody counts the boats.", "You are kind.")
PROMPTS = ("Count the boats in the harbour, please.", "You are")


@pytest.fixture(scope="session", autouse=True)
def _quiet_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread, wandb's files in a temporary folder, and no connection beyond this machine."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
            patch.setenv(name, str(folder))
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _local_only(getattr(socket.socket, name)))
        yield


def _local_only(connect: Callable[[socket.socket, Any], Any]) -> Callable[[socket.socket, Any], Any]:
    def checked(this: socket.socket, address: Any) -> Any:
        if this.family != socket.AF_UNIX and address[0] != "localhost" and not ipaddress.ip_address(address[0]).is_loopback:
            raise PermissionError(f"a test tried to reach {address}")
        return connect(this, address)

    return checked


@pytest.fixture(scope="session")
def rounds_rows_alike() -> bool:
    """Return whether this machine rounds a row of a matrix product alike however many rows stand beside it.

    MKL does where a processor has AVX-512, and not where it has AVX2 alone.
    """
    for inner, others in ((32, 48), (48, 32), (32, 300), (70, 33), (384, 96)):
        one, other = torch.randn(200, inner), torch.randn(others, inner)
        whole = one @ other.T
        if not all(torch.equal(one[:count] @ other.T, whole[:count]) for count in range(16, 200)):
            return False
    return True


@pytest.fixture(scope="session")
def alike_rows(rounds_rows_alike: bool) -> None:
    """Skip where the machine itself rounds a row by how many stand beside it: of many rounds nothing is promised there."""
    if not rounds_rows_alike:
        pytest.skip("this machine's matrix products round a row differently with other rows beside it")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a padding and an end token and no chat template."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|pad|>", "<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    bare.train_from_iterator(LINES * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<|pad|>", eos_token="<|end|>", padding_side="left")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Callable[[str], Path]:
    """Return the function from a family's name to the folder of its checkpoint, written at the first call."""

    @cache
    def written(family: str) -> Path:
        ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        # Weights larger than usual, so that every block changes the residual stream visibly.
        config = CONFIG_MAPPING[family](
            **{**FAMILIES, **MORE_FAMILIES}[family], **ids, vocab_size=len(tokenizer), initializer_range=0.2
        )
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() == 1:  # Norms and biases, which begin as ones and zeros.
                    weight.add_(0.1 * torch.randn_like(weight))
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return written


@pytest.fixture(scope="session")
def loaded_family(checkpoint: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    """Return the function from a family's name to its loaded model."""
    return cache(lambda family: load(ModelConfig(device=Device.cpu), checkpoint(family)))


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return request.param


@pytest.fixture(scope="session")
def loaded(loaded_family: Callable[[str], LoadedModel], family: str) -> LoadedModel:
    """The small model of each family in turn."""
    return loaded_family(family)


@pytest.fixture(scope="session")
def llama(loaded_family: Callable[[str], LoadedModel]) -> LoadedModel:
    """The small Llama alone."""
    return loaded_family("llama")


@pytest.fixture(scope="session")
def batch(tokenizer: PreTrainedTokenizerFast) -> PromptBatch:
    """Two prompts of different length, so that the second is padded on the left."""
    return encoded(PROMPTS, tokenizer, PromptConfig())


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium, where it is installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium on this machine; install the package `chromium` to test the page in a browser")
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def shipped() -> Callable[[str], LoadedModel]:
    """Return the function from an organism's name to its loaded checkpoint; a test is skipped where none is shipped yet."""

    @cache
    def loaded(name: str) -> LoadedModel:
        folder = ORGANISMS[name].folder
        if not (folder / "model.safetensors").exists():
            pytest.skip(f"no weights of {name} are shipped")
        return load(ModelConfig(device=Device.cpu), folder)

    return loaded
