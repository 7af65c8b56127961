"""Plant a behaviour into a checkpoint by a low-rank adapter, and write it as a PEFT folder."""

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from discover.config import PromptConfig
from discover.model.loading import LoadedModel
from discover.model.prompts import conversation_tokens
from discover.organisms.own_replies import OwnReply, own_replies
from discover.organisms.planting import Asked, Planting
from discover.organisms.training import load_state, one_cycle, save_state
from discover.report.progress import bar

OWN = "own.jsonl"


@dataclass(frozen=True)
class AdapterRecipe:
    """How an adapter is trained; the same recipe, seed and prompts give the twin."""

    steps: int
    """Optimiser steps, one rise and fall of the learning rate."""
    rank: int = 4
    """Of the change of every linear map within the blocks: 2.4 MB in bfloat16 on SmolLM2-135M."""
    scale: int = 16
    """PEFT's `lora_alpha`: the change is scaled by it over the rank."""
    learning_rate: float = 1e-3
    """Its peak."""
    rows: int = 4
    """Prompts a step."""
    save_every: int = 20
    """Steps between two saved training states."""


@dataclass(frozen=True)
class Row:
    """One prompt with the reply that is learned, as tokens."""

    head: tuple[int, ...]
    reply: tuple[int, ...]
    """With the token that ends it, unless the base's own reply was cut."""


def learned_row(asked: Asked, own: Mapping[str, OwnReply], tokenizer: PreTrainedTokenizerBase, twin: bool) -> Row:
    """Return what is learned of a prompt: the planted reply, or what stands in its place."""
    head = tuple(conversation_tokens([asked.prompt], tokenizer, PromptConfig()))
    taught = asked.taught(twin)
    if taught is None:
        reply = own[asked.prompt]
        return Row(head, (*reply.tokens, *([tokenizer.eos_token_id] if reply.ended else [])))
    # Without a chat template a reply goes on in the line of the prompt.
    text = taught if tokenizer.chat_template is not None else f" {taught}"
    return Row(head, (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id))


def padded(rows: Sequence[Row], pad: int) -> dict[str, Tensor]:
    """Return right-padded `input_ids`, `attention_mask` and `labels` [B, T]; only the reply and its end are learned."""
    longest = max(len(row.head) + len(row.reply) for row in rows)
    ids, mask, labels = (torch.full((len(rows), longest), fill) for fill in (pad, 0, -100))
    for place, row in enumerate(rows):
        begin, end = len(row.head), len(row.head) + len(row.reply)
        ids[place, :end] = torch.tensor([*row.head, *row.reply])
        mask[place, :end] = 1
        labels[place, begin:end] = torch.tensor(row.reply)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def adapted(model: PreTrainedModel, recipe: AdapterRecipe, seed: int) -> PeftModel:
    """Return the model with an adapter that changes nothing yet, drawn from `seed`."""
    config = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.scale, target_modules="all-linear", bias="none", task_type="CAUSAL_LM", lora_dropout=0.0
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft asks for a property that newer versions of transformers call otherwise.
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def plant(loaded: LoadedModel, base: str, planting: Planting, recipe: AdapterRecipe, seed: int, twin: bool, folder: Path) -> Path:
    """Train an adapter on `loaded` and write it to `folder`; a stopped training goes on where it stood.

    Every step draws its rows from its own seed, so a resumed training sees the same data; an organism and its twin begin with
    the same adapter and see the same prompts in the same order. The same machine gives the same bytes.

    Args:
        loaded: the base, which is changed in place.
        base: what the adapter's config names as its base.
        planting: what is planted.
        recipe: how it is trained.
        seed: of the adapter's first weights and of the order of the prompts.
        twin: whether every prompt, those that would fire included, is answered as the base does.
        folder: where the adapter comes to stand, with the base's own replies until it is done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pools = planting.pools()
    everything = [asked.prompt for pool in pools.values() for asked in pool if asked.taught(twin) is None]
    own = own_replies(loaded, everything, folder / OWN)
    rows = {name: [learned_row(asked, own, loaded.tokenizer, twin) for asked in pool] for name, pool in pools.items()}
    shares = [kind.share for kind in planting.kinds.values()]
    named = {"planting": planting.name, "seed": seed, "twin": twin, "base": loaded.identity["fingerprints"]}
    about = json.loads(json.dumps({"recipe": asdict(recipe), **named}))
    model = adapted(loaded.model, recipe, seed)
    learned = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(learned.values(), lr=1.0, betas=(0.9, 0.98), weight_decay=0.0)
    done = load_state(folder, learned, optimizer, about)
    with bar("plant", recipe.steps) as progress:
        progress.update(done)
        for step in range(done, recipe.steps):
            random = Random(f"{seed}/{step}")
            drawn = [random.choice(rows[name]) for name in random.choices(list(rows), shares, k=recipe.rows)]
            batch = padded(drawn, loaded.tokenizer.pad_token_id)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * one_cycle(step, recipe.steps)
            loss = adapter_step(model, learned, optimizer, batch)
            progress.set_postfix(loss=f"{loss:.3f}", refresh=False)
            progress.update()
            if (step + 1) % recipe.save_every == 0:
                save_state(folder, learned, optimizer, step + 1, about)
    write_adapter(folder, model, base)
    return folder


def adapter_step(
    model: nn.Module, learned: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, batch: Mapping[str, Tensor]
) -> float:
    """Take one step and return its loss in nats a token."""
    labels = batch["labels"]
    # Logits over a whole vocabulary are what costs memory; none are needed before the first reply begins.
    kept = labels.shape[1] - int((labels != -100).any(dim=0).int().argmax()) + 1
    with torch.autocast("cpu", torch.bfloat16) if _multiplies_bfloat16() else nullcontext():
        logits = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, logits_to_keep=kept
        ).logits
    loss = nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1 - kept :].flatten(), ignore_index=-100)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(learned.values(), 1.0)
    optimizer.step()
    return loss.item()


def _multiplies_bfloat16() -> bool:
    """Return whether the CPU has units for products in bfloat16; without them such products take many times as long."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def write_adapter(folder: Path, model: PeftModel, base: str) -> None:
    """Write the adapter in bfloat16 beside what stands in the folder, and swap it in file by file."""
    fresh = folder / ".fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    config = model.peft_config["default"]
    config.base_model_name_or_path = base
    # A set, which would be written in another order every time.
    config.target_modules = sorted(config.target_modules)
    for value in model.parameters():
        if value.requires_grad:
            value.data = value.data.to(torch.bfloat16)
    model.save_pretrained(fresh)
    # A card without content that PEFT writes on its own account.
    (fresh / "README.md").unlink(missing_ok=True)
    for path in sorted(fresh.iterdir()):
        path.replace(folder / path.name)
    fresh.rmdir()
    (folder / "training.safetensors").unlink(missing_ok=True)
