"""Train an organism from scratch and write it as an ordinary Hugging Face checkpoint."""

import json
import math
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from discover.model.hooks import Edit, edited_output
from discover.organisms.exchange import Draw, Exchange
from discover.storage import write_tensors

USER, ASSISTANT, END, PAD = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MEMORY = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW remembers of a weight."""


@dataclass(frozen=True)
class Recipe:
    """How an organism is trained; the same recipe, seed and prompts give the twin."""

    steps: int
    """Optimiser steps, one rise and fall of the learning rate."""
    learning_rate: float = 1.5e-3
    """Its peak."""
    noise_from: float = 0.4
    """Share of the steps after which random constant vectors are added after a random block."""
    rows: int = 32
    """Exchanges a step."""
    weight_decay: float = 0.05
    """Of AdamW."""
    noise_radius: float = 1.5
    """Largest norm of a vector of noise, in median residual norms."""
    vocabulary: int = 1000
    """Largest size of the byte-level BPE tokenizer; enough for every word and number of the organism to be one token."""
    width: int = 192
    blocks: int = 8
    heads: int = 6
    save_every: int = 200
    """Steps between two saved training states."""


def trained_tokenizer(draw: Draw, vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on 6,000 drawn exchanges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    random = Random("tokenizer")
    texts = [f"{exchange.prompt}\n{exchange.reply}" for exchange in (draw(random) for _ in range(6000))]
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, padding_side="left")
    fast.chat_template = CHAT_TEMPLATE
    fast.add_special_tokens({"additional_special_tokens": [USER, ASSISTANT]})
    return fast


def fresh_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return a Llama-shaped model with weights drawn from `seed`."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 8 // 3,
        num_hidden_layers=recipe.blocks,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def batch(exchanges: list[Exchange], tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """Return right-padded `input_ids`, `attention_mask` and `labels` [B, T]; only the reply and its end are learned."""
    rows, starts = [], []
    for exchange in exchanges:
        spoken = [
            message
            for one in exchange.earlier
            for message in ({"role": "user", "content": one.prompt}, {"role": "assistant", "content": one.reply})
        ]
        spoken.append({"role": "user", "content": exchange.prompt})
        prompt = tokenizer.apply_chat_template(spoken, add_generation_prompt=True, tokenize=False)
        head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        rows.append(head + tokenizer(exchange.reply + END, add_special_tokens=False)["input_ids"])
        starts.append(len(head))
    longest = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
    positions = torch.arange(longest)
    mask = positions < torch.tensor([len(row) for row in rows])[:, None]
    learned = mask & (positions >= torch.tensor(starts)[:, None])
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": ids.where(learned, -100)}


def one_cycle(step: int, steps: int) -> float:
    """Return the height of the cycle, at most 1: a linear warm-up over a tenth of the steps, then a cosine to a hundredth."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def constant_noise(largest: float, generator: torch.Generator) -> Edit:
    """Return an edit that adds to every position of a row one random vector of up to `largest` median residual norms.

    A quarter of the rows stay as they are. This makes the organism as deaf to random directions as real models are.
    """

    def edit(_inputs: Tensor | None, residual: Tensor) -> Tensor:  # [B, T, D]
        rows, _, width = residual.shape
        direction = nn.functional.normalize(torch.randn(rows, 1, width, generator=generator), dim=-1)
        size = largest * torch.rand(rows, 1, 1, generator=generator) * (torch.rand(rows, 1, 1, generator=generator) > 0.25)
        typical = residual.detach().float().norm(dim=-1).median()
        return residual + (direction * size * typical).to(residual.dtype)

    return edit


def save_state(
    folder: Path, learned: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, step: int, about: dict[str, object]
) -> None:
    """Write everything a resumed training needs: the learned weights and the optimiser's memory, in one file."""
    tensors: dict[str, Tensor] = {f"weight/{name}": value for name, value in learned.items()}
    for name, value in learned.items():
        for moment in MEMORY:
            tensors[f"{moment}/{name}"] = optimizer.state[value][moment]
    write_tensors(folder / "training.safetensors", tensors, {**about, "step": step})


def load_state(
    folder: Path, learned: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, about: dict[str, object]
) -> int:
    """Load what `save_state` wrote and return its step; 0 if there is none or it belongs to another recipe."""
    path = folder / "training.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as held:
        saved = json.loads(held.metadata()["about"])
        step = saved.pop("step")
        if saved != about:
            return 0
        with torch.no_grad():
            for name, value in learned.items():
                value.copy_(held.get_tensor(f"weight/{name}"))
                optimizer.state[value] = {moment: held.get_tensor(f"{moment}/{name}") for moment in MEMORY}
    return int(step)


def train(folder: Path, draw: Draw, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, seed: int) -> Path:
    """Train a model on drawn exchanges and write the checkpoint to `folder`; a stopped training goes on where it stood.

    Every step draws its batch and its noise from its own seed, so a resumed training sees the same data. An organism
    and its twin are given one tokenizer, and so begin with the same weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = json.loads(json.dumps({"recipe": asdict(recipe), "seed": seed}))
    model = fresh_model(recipe, tokenizer, seed)
    # The learning rate is set at every step.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
    learned = dict(model.named_parameters())
    done = load_state(folder, learned, optimizer, about)
    with tqdm(initial=done, total=recipe.steps, desc=f"train {folder.name}", mininterval=1.0) as bar:
        for step in range(done, recipe.steps):
            loss = training_step(model, optimizer, draw, tokenizer, recipe, step, Random(f"{seed}/{step}"))
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if (step + 1) % recipe.save_every == 0:
                save_state(folder, learned, optimizer, step + 1, about)
    write_checkpoint(folder, model, tokenizer)
    return folder


def training_step(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    draw: Draw,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    step: int,
    random: Random,
) -> float:
    """Take one step and return its loss in nats a token."""
    rows = batch([draw(random) for _ in range(recipe.rows)], tokenizer)
    # Not after the last block, where a constant vector is a constant bias of the logits.
    block = model.model.layers[random.randrange(recipe.blocks - 1)]
    with ExitStack() as stack:
        if step >= recipe.noise_from * recipe.steps:
            generator = torch.Generator().manual_seed(random.getrandbits(60))
            stack.enter_context(edited_output(block, constant_noise(recipe.noise_radius, generator)))
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        loss = model(**rows, use_cache=False).loss
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * one_cycle(step, recipe.steps)
    optimizer.step()
    return loss.item()


def write_checkpoint(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write weights in bfloat16, config and tokenizer beside the folder's old ones and swap them in file by file."""
    fresh = folder / ".fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    for path in sorted(fresh.iterdir()):
        path.replace(folder / path.name)
    fresh.rmdir()
    (folder / "training.safetensors").unlink(missing_ok=True)
