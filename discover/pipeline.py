"""One run from the prompt to the report; the only file that sees every stage."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import torch

from discover.audit.findings import Finding, findings, load_findings, save_findings
from discover.bank import VectorBank
from discover.config import Config
from discover.errors import UsageError
from discover.folder import opened
from discover.model.loading import LoadedModel, load
from discover.model.prompts import PromptBatch, encoded, prompts_from
from discover.model.slice import model_slice
from discover.organisms.catalogue import ORGANISMS
from discover.read.modes import load_modes, modes, save_modes
from discover.read.signals import Completion, load_completions, save_completions
from discover.read.speech import followed, forced, own_completions, spoken, unsteered_replies
from discover.report.html import html_report
from discover.report.markdown import markdown_report
from discover.report.progress import bar
from discover.report.record import Record
from discover.report.terminal import terminal_report
from discover.report.tracking import track
from discover.search.learning import Search, default_layers, learn, load_search, rounds_of, save_search
from discover.steer.generation import Reply, replies
from discover.steer.selftest import self_test
from discover.storage import write_text


def run(config: Config, folder: Path) -> list[Finding]:
    """Learn vectors, let the model speak under them, and hold what it says against the null.

    Every stage leaves its file in `folder`; a stage whose file is there is read, not computed. Returns the findings.

    Raises:
        UsageError: what was asked for cannot be done; the sentence says why.
    """
    with opened(folder, config) as held:
        torch.manual_seed(config.seed)
        loaded = load(config.model, checkpoint(config.model.path))
        batch = prompt_batch(config, loaded)
        held.check_inputs(loaded.identity, batch.prompts)
        layers = default_layers(config.search, len(loaded.anatomy.blocks))
        checks = self_test(loaded, batch, model_slice(loaded, batch, *layers), *layers)
        held.note(model=loaded.identity, prompts=list(batch.prompts), layers=layers, self_test=asdict(checks))
        search = held.stage(
            "search", "bank.safetensors", lambda: _search(config, loaded, batch, layers), save_search, load_search
        )
        null = held.stage("null", "null.safetensors", lambda: _null(config, search.bank), VectorBank.save_as, VectorBank.load)
        said = held.stage(
            "speech",
            "completions.jsonl",
            lambda: _speech(config, loaded, batch, search.bank, null),
            save_completions,
            load_completions,
        )
        groups = held.stage("modes", "clusters.json", lambda: modes(said), save_modes, load_modes)
        found = held.stage(
            "findings",
            "findings.json",
            lambda: findings(said, groups, len(search.bank), len(null), config.audit),
            save_findings,
            load_findings,
        )
        record = Record(held.about, batch.prompts, search.bank, search.curve, said, groups, found)
        write_text(folder / "report.md", markdown_report(record))
        write_text(folder / "report.html", html_report(record))
        if not held.about.get("tracked"):
            held.note(tracked=track(record, folder))
        print(terminal_report(record, folder), flush=True)
    return found


def checkpoint(path: str) -> str | Path:
    """Return the folder of a built-in organism, or `path` itself."""
    return ORGANISMS[path].folder if path in ORGANISMS else path


def prompt_batch(config: Config, loaded: LoadedModel) -> PromptBatch:
    """Return the run's prompts as tokens; a built-in organism brings its own where none are given.

    Raises:
        UsageError: no or bad prompts, or no room for prompt and completion in the model's context.
    """
    given, organism = config.prompts, ORGANISMS.get(config.model.path)
    texts = organism.prompts if organism and not given.texts and given.file is None else given.texts
    batch = encoded(prompts_from(texts, given.file), loaded.tokenizer, given.chat, given.system)
    needed = batch.input_ids.shape[1] + max(config.search.reply_positions, config.speech.tokens)
    if loaded.context is not None and needed > loaded.context:
        raise UsageError(
            f"The longest prompt has {batch.input_ids.shape[1]} tokens; with {config.speech.tokens} for the completion that is "
            f"{needed}, and this model reads at most {loaded.context}. Shorten the prompt or set speech.tokens."
        )
    return batch


def _search(config: Config, loaded: LoadedModel, batch: PromptBatch, layers: tuple[int, int]) -> Search:
    prompts = hashlib.sha256("\0".join(batch.prompts).encode()).hexdigest()[:16]
    origin = {"model": loaded.identity["path"], "fingerprints": loaded.identity["fingerprints"], "prompts": prompts}
    begun = replies(loaded, batch, None, None, max(1, config.search.reply_positions), config.speech.rows, lambda _: None)
    openings = [reply.tokens[: config.search.reply_positions] for reply in begun]
    part = model_slice(loaded, batch.continued(openings, loaded.tokenizer.pad_token_id), *layers)
    with bar("search", rounds_of(config.search)) as progress:
        return learn(config.search, part, max(map(len, openings)), layers, config.seed, origin, progress.update)


def _null(config: Config, bank: VectorBank) -> VectorBank:
    return bank.null(config.audit.null_vectors or 4 * len(bank), config.seed)


def _speech(config: Config, loaded: LoadedModel, batch: PromptBatch, bank: VectorBank, null: VectorBank) -> list[Completion]:
    """Return everything that is said: unsteered, under both banks, and from forced and followed tokens."""
    own: list[Reply] = unsteered_replies(loaded, batch, config.speech)
    count = min(config.audit.forced_tokens, loaded.model.config.get_text_config(decoder=True).vocab_size)
    with bar("speech", len(batch.input_ids) * (len(bank) + len(null) + count)) as progress:
        learned = spoken(loaded, batch, own, "learned", bank, config.speech, progress.update)
        random = spoken(loaded, batch, own, "null", null, config.speech, progress.update)
        begun = forced(loaded, batch, own, count, config.speech, progress.update) if count else []
        hinted = followed(loaded, batch, own, [*learned, *random], config.speech)
    return [*own_completions(loaded, batch, own), *learned, *random, *begun, *hinted]
