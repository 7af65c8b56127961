"""One run from the prompt to the report; the only file that sees every stage."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from discover.audit.findings import Finding, findings, load_findings, save_findings
from discover.audit.known import known_directions, likenesses, load_likenesses, save_likenesses
from discover.audit.uses import Asked, Use, load_uses, replies_of_uses, save_uses, uses
from discover.bank import VectorBank
from discover.choices import Layers
from discover.config import Config
from discover.contrast.outcomes import Outcome
from discover.contrast.study import Ground as Study
from discover.contrast.study import Learned, learned, load_learned, save_learned, tries
from discover.contrast.trial import freely, load_outcomes, save_outcomes, tried
from discover.folder import RunFolder, opened
from discover.inputs import (
    Ground,
    heard_batch,
    labelled,
    neutral_prompts,
    open_prompts,
    prepared,
    prompt_batch,
    prompts_of_use,
    sighted,
)
from discover.model.fidelity import Rendering, rendering
from discover.model.loading import LoadedModel, load
from discover.model.prompts import PromptBatch
from discover.organisms.catalogue import checkpoint
from discover.pilot.arms import Arm, by_speech, is_open
from discover.pilot.budget import budget
from discover.pilot.choice import kept_grounds, listened, pilot
from discover.pilot.choice import tried as tried_arms
from discover.pilot.cost import Cost, cost, in_sizes, sized, sizes_of
from discover.pilot.plan import Plan, leads_followed, learned_vectors, null_vectors, planned, samples
from discover.pilot.rates import measured
from discover.pilot.trial import Listener
from discover.read.decoders import Decoding, beside_of, decodings, load_decodings, save_decodings
from discover.read.effects import EffectMap, compared, effect_map, load_map, save_map
from discover.read.embedding import Embed, with_meaning
from discover.read.halving import check_budget, halved
from discover.read.hints import Behaviour, Hint, hints, load_hints, replies_of_hints, save_hints
from discover.read.labels import named
from discover.read.leads import FURTHER, followed
from discover.read.meaning import embedder
from discover.read.modes import Mode, load_modes, modes, save_modes, stability
from discover.read.reference import UnsteeredReference, load_reference, save_reference, unsteered_reference
from discover.read.signals import Completion, load_completions, save_completions
from discover.read.speech import forced, own_completions, sampled, spoken
from discover.read.triage import DOSES, Glance, glances, load_glances, save_glances, sight
from discover.read.trials import Trial, load_trials, save_trials
from discover.report.contrast_page import html_contrast
from discover.report.contrasted import ContrastRecord
from discover.report.html import html_atlas, html_report
from discover.report.markdown import markdown_contrast, markdown_report
from discover.report.progress import bar
from discover.report.record import Record
from discover.report.redacted import masked, redacted, redacted_about, redacted_contrast
from discover.report.terminal import terminal_atlas, terminal_contrast, terminal_report
from discover.report.tracking import Tracker, tracked
from discover.search.atlas import Atlas, atlas, atlas_size, load_atlas, save_atlas
from discover.search.chunks import chunks
from discover.search.learning import Search, gradients_of, learn, load_search, random_bank, save_search, together, way_seed
from discover.search.readings import whole_reader
from discover.steer.generation import NOTHING, Reply
from discover.steer.selftest import self_test
from discover.storage import read_json, write_json, write_text


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
        every = heard_batch(config, loaded, batch)
        held.check_inputs(loaded.identity, every.prompts)
        asked, known = _checked(config, loaded, every)
        charted = _charted(held, loaded, batch, config.seed) if _open_layers(config) else None
        plan = planned(in_sizes(config, held.about.get("sizes", {})), loaded, batch, every, charted)
        held.note(
            model=loaded.identity,
            prompts=list(every.prompts),
            asked=len(batch.prompts),
            rendering=_rendered(held, rendering(every, loaded, config.prompts)),
            self_test=_checks(loaded, plan.grounds),
        )
        if "cost" not in held.about:
            plan, expected = _sized(plan, asked, charted)
            spent = budget(plan)
            held.note(sizes=sizes_of(plan.config), budget=spent.record, cost=expected.record)
            print(spent, expected, sep="\n", flush=True)
        about = redacted_about(held.about) if config.report.redact else held.about
        with tracked("discover", about, folder) as tracker:
            held.told = tracker.stage
            return _audited(held, plan, charted, asked, known, tracker)


def _audited(
    held: RunFolder,
    plan: Plan,
    charted: Atlas | None,
    asked: Asked,
    known: Sequence[tuple[str, VectorBank]],
    tracker: Tracker,
) -> list[Finding]:
    """Return the findings of a run that is planned, stage by stage, and write its reports.

    Args:
        held: the run folder.
        plan: what is to be done.
        charted: every pair of layers, where the run chooses its own by it.
        asked: the prompts on which findings are tried.
        known: directions that vectors are compared with.
        tracker: the run of wandb.
    """
    config, loaded, begun, arms, grounds = plan.config, plan.loaded, plan.begun, plan.arms, plan.grounds
    batch, every, folder = plan.batch, plan.every, held.path
    reference = held.stage(
        "unsteered", "unsteered.json", lambda: _reference(config, loaded, every, begun), save_reference, load_reference
    )
    embed = embedder(config.read.embedding, loaded, [one.text for drawn in reference.samples for one in drawn])
    trials = held.stage(
        "pilot", "pilot.json", lambda: _piloted(config, loaded, every, reference, arms, grounds), save_trials, load_trials
    )
    tracker.pilot(trials)
    grounds = kept_grounds(arms, grounds, trials)
    held.note(layers=_outermost(grounds))
    search = held.stage(
        "search",
        "bank.safetensors",
        lambda: _search(config, loaded, grounds),
        save_search,
        load_search,
    )
    tracker.curve(search.curve)
    null = held.stage(
        "null", "null.safetensors", lambda: _null(config, search.bank, grounds), VectorBank.save_as, VectorBank.load
    )
    seen = held.stage(
        "triage",
        "triage.jsonl",
        lambda: _triage(config, loaded, batch, reference, search.bank, null),
        save_glances,
        load_glances,
    )
    said = held.stage(
        "speech",
        "completions.jsonl",
        lambda: with_meaning(_speech(config, loaded, every, batch, reference, (search.bank, null), seen), embed),
        save_completions,
        load_completions,
    )
    tracker.said(said)
    groups = held.stage("modes", "clusters.json", lambda: named(modes(said, embed), said, config.read), save_modes, load_modes)
    mapped = held.stage(
        "map",
        "map.json",
        lambda: _mapped(config, loaded, batch, begun, grounds, (search.bank, null), said, groups, embed),
        save_map,
        load_map,
    )
    found = held.stage(
        "findings",
        "findings.json",
        lambda: findings(said, groups, every.prompts, len(search.bank), len(null), config.audit),
        save_findings,
        load_findings,
    )
    decoded = held.stage(
        "decoders",
        "decodings.jsonl",
        lambda: _decodings(config, loaded, batch, reference, found, said, (search.bank, null)),
        save_decodings,
        load_decodings,
    )
    led = held.stage(
        "hints", "hints.json", lambda: _hints(config, loaded, every, found, said, (search.bank, null)), save_hints, load_hints
    )
    used = held.stage(
        "uses",
        "uses.json",
        lambda: _uses(config, loaded, found, said, (search.bank, null), asked),
        save_uses,
        load_uses,
    )
    alike = held.stage(
        "known", "known.json", lambda: likenesses(loaded, batch, search.bank, known), save_likenesses, load_likenesses
    )
    record = Record(
        held.about,
        every.prompts,
        search.bank,
        search.curve,
        said,
        groups,
        found,
        charted,
        used,
        alike,
        seen,
        mapped,
        decoded,
        led,
        trials,
    )
    record = redacted(record) if config.report.redact else record
    write_text(folder / "report.md", markdown_report(record))
    write_text(folder / "report.html", html_report(record))
    if not held.about.get("tracked"):
        held.note(tracked=tracker.found(record))
    print(terminal_report(record, folder), flush=True)
    return found


def estimate(config: Config) -> Cost:
    """Say what a run would cost, and return it; nothing is written.

    Raises:
        UsageError: what was asked for cannot be done; the sentence says why.
    """
    torch.manual_seed(config.seed)
    loaded = load(config.model, checkpoint(config.model.path))
    batch = prompt_batch(config, loaded)
    every = heard_batch(config, loaded, batch)
    asked, _ = _checked(config, loaded, every)
    plan = planned(config, loaded, batch, every, None)
    _checks(loaded, plan.grounds)
    plan, expected = _sized(plan, asked, None)
    print(budget(plan), expected, sep="\n", flush=True)
    return expected


def chart(config: Config, folder: Path) -> Atlas:
    """Measure every pair of layers of a model on its prompts; leave atlas.json and atlas.html in `folder`.

    Raises:
        UsageError: what was asked for cannot be done; the sentence says why.
    """
    with opened(folder, config) as held:
        loaded = load(config.model, checkpoint(config.model.path))
        batch = prompt_batch(config, loaded)
        held.check_inputs(loaded.identity, batch.prompts)
        # On the layers that a run would take: every slice is made in the same way.
        checks = _checks(loaded, prepared(config, loaded, batch, None))
        given = asdict(rendering(batch, loaded, config.prompts))
        held.note(model=loaded.identity, prompts=list(batch.prompts), rendering=given, verb="atlas", self_test=checks)
        charted = _charted(held, loaded, batch, config.seed)
        prompts = [masked(prompt) for prompt in batch.prompts] if config.report.redact else batch.prompts
        write_text(folder / "atlas.html", html_atlas(charted, loaded.identity["path"], prompts))
        print(terminal_atlas(charted, folder), flush=True)
    return charted


def contrast(config: Config, folder: Path) -> list[Outcome]:
    """Learn a direction from labelled examples, choose where it acts, and measure what it does on other examples.

    Raises:
        UsageError: what was asked for cannot be done; the sentence says why.
    """
    with opened(folder, config) as held:
        torch.manual_seed(config.seed)
        examples, about = labelled(config), config.contrast
        texts = [f"{one.prompt}{one.completion or ''}" for one in examples.everything]
        parts = examples.split((about.training, about.selection, about.test), config.seed)
        loaded = load(config.model, checkpoint(config.model.path))
        held.check_inputs(loaded.identity, texts)
        held.note(model=loaded.identity, prompts=texts, verb="contrast")
        ground = Study(loaded, (parts[0], parts[1], parts[2]), neutral_prompts(config), config)
        told = redacted_about(held.about) if config.report.redact else held.about
        with tracked("contrast", told, folder) as tracker:
            held.told = tracker.stage
            return _contrasted(held, ground, config, tracker)


def _contrasted(held: RunFolder, ground: Study, config: Config, tracker: Tracker) -> list[Outcome]:
    """Return the outcomes of a contrast, stage by stage, and write its reports."""

    def learning() -> Learned:
        with bar("contrast", tries(ground)) as progress:
            return learned(ground, progress.update)

    found = held.stage("learning", "bank.safetensors", learning, save_learned, load_learned)
    outcomes = held.stage("trial", "outcomes.json", lambda: tried(ground, found), save_outcomes, load_outcomes)
    said = held.stage("speech", "open.json", lambda: freely(ground, found, open_prompts(config)), write_json, read_json)
    record = ContrastRecord(held.about, found, outcomes, said)
    record = redacted_contrast(record) if config.report.redact else record
    write_text(held.path / "report.md", markdown_contrast(record))
    write_text(held.path / "report.html", html_contrast(record))
    if not held.about.get("tracked"):
        held.note(tracked=tracker.contrasted(record))
    print(terminal_contrast(record, held.path), flush=True)
    return outcomes


def _rendered(held: RunFolder, given: Rendering) -> dict[str, Any]:
    """Return what the model is given, as it stands in run.json; of a run that goes on with what it was given at first."""
    first = held.about.get("rendering")
    if first is None or first["texts"] == list(given.texts):
        return asdict(given)
    told = "When the run was resumed, the chat template wrote the prompts otherwise (it may write the date)."
    return {**first, "remarks": [*(one for one in first["remarks"] if one != told), told]}


def _open_layers(config: Config) -> bool:
    """Return whether an atlas is asked for and there is a layer for it to choose."""
    return any(one.layers is Layers.auto and None in (one.source_layer, one.target_layer) for one in config.search.shares)


def _checked(config: Config, loaded: LoadedModel, every: PromptBatch) -> tuple[Asked, list[tuple[str, VectorBank]]]:
    """Return the prompts on which findings are tried and the known directions; refuse what could not be used at the end.

    Raises:
        UsageError: a file cannot be read, or the budget lets nobody speak.
    """
    # A folder that holds no encoder is refused before anything is computed.
    embedder(config.read.embedding, loaded, [])
    check_budget(learned_vectors(config) + null_vectors(config), len(every.prompts), config.speech)
    return prompts_of_use(config), known_directions(config.audit.known, loaded)


def _sized(plan: Plan, asked: Asked, charted: Atlas | None) -> tuple[Plan, Cost]:
    """Return the plan, in the size that fits into `run.minutes` if these are given, and what it will cost.

    Raises:
        UsageError: no size fits, or its budget lets nobody speak.
    """
    config, rates, tried_on = plan.config, measured(plan), replies_of_uses(1, asked, plan.config.audit.doses)
    if config.run.minutes is None:
        return plan, cost(plan, config, tried_on, rates)
    config, expected = sized(plan, tried_on, rates, config.run.minutes)
    check_budget(learned_vectors(config) + null_vectors(config), len(plan.every.prompts), config.speech)
    size = f"{learned_vectors(config)} vectors, {null_vectors(config)} random ones, {config.speech.tokens} tokens a reply"
    print(f"Size for {config.run.minutes:g} minutes: {size}.")
    return planned(config, plan.loaded, plan.batch, plan.every, charted), expected


def _reference(config: Config, loaded: LoadedModel, every: PromptBatch, begun: Sequence[Reply]) -> UnsteeredReference:
    """Return what the unsteered model says to every prompt, greedy (as it has begun) and sampled."""
    if any(len(one.tokens) > config.speech.tokens for one in begun):
        begun = [NOTHING] * len(begun)
    count = samples(config)
    with bar("unsteered", len(every.prompts) * (1 + count)) as progress:
        return unsteered_reference(loaded, every, begun, config.speech, count, config.seed, progress.update)


def _piloted(
    config: Config,
    loaded: LoadedModel,
    every: PromptBatch,
    reference: UnsteeredReference,
    arms: Sequence[Arm],
    grounds: Sequence[Ground],
) -> tuple[Trial, ...]:
    """Return what each arm is worth; nothing where the radius of every arm was given, or is calibrated without speech."""
    if not all(by_speech(arm.search) for arm in arms):
        return ()
    # At most: every arm may be tried twice.
    with bar("pilot", listened(config, arms, len(every.prompts)) + tried_arms(config, arms, len(every.prompts))) as progress:
        speech = replace(config.speech, tokens=min(config.pilot.tokens, config.speech.tokens))
        # Replies heard this far are held against as much of the unsteered ones.
        listener = Listener(loaded, every, reference.truncated(loaded, speech.tokens), speech, progress.update)
        return pilot(config, arms, grounds, is_open(config.search), listener)


def _outermost(grounds: Sequence[Ground]) -> tuple[int, int]:
    """Return the first source and the last target layer."""
    return min(one.layers[0] for one in grounds), max(one.layers[1] for one in grounds)


def _charted(held: RunFolder, loaded: LoadedModel, batch: PromptBatch, seed: int) -> Atlas:
    def computed() -> Atlas:
        with bar("atlas", atlas_size(len(loaded.anatomy.blocks))) as progress:
            return atlas(loaded, batch, seed, progress.update)

    return held.stage("atlas", "atlas.json", computed, save_atlas, load_atlas)


def _checks(loaded: LoadedModel, grounds: Sequence[Ground]) -> dict[str, float]:
    """Return what the self-test found, of several ways to learn the worst of each.

    Raises:
        UsageError: nothing read from this model could be trusted.
    """
    found = [
        asdict(self_test(loaded, one.batch, one.longer, one.part, one.space, one.layers[1], one.search.target)) for one in grounds
    ]
    return {name: max(one[name] for one in found) for name in found[0]}


def _search(config: Config, loaded: LoadedModel, grounds: Sequence[Ground]) -> Search:
    origin = {"model": loaded.identity["path"], "fingerprints": loaded.identity["fingerprints"]}
    with bar("search", sum(gradients_of(one.search) for one in grounds)) as progress:
        return together(
            [
                learn(
                    one.search,
                    one.part,
                    one.space,
                    one.reply_tokens,
                    one.layers,
                    way_seed(config.seed, number),
                    {**origin, "prompts": hashlib.sha256("\0".join(one.batch.prompts).encode()).hexdigest()[:16]},
                    progress.update,
                )
                for number, one in enumerate(grounds)
            ]
        )


def _decodings(
    config: Config,
    loaded: LoadedModel,
    batch: PromptBatch,
    reference: UnsteeredReference,
    found: list[Finding],
    said: list[Completion],
    banks: tuple[VectorBank, VectorBank],
) -> list[Decoding]:
    """Return what vectors are about in tokens; those that stand for modes, the strongest first, are described and mapped."""
    if not config.read.decoded:
        return []
    examples = (next((said[index] for index in one.examples if said[index].bank == "learned"), None) for one in found)
    stand = dict.fromkeys(one.vector for one in examples if one is not None and one.vector is not None)
    read = 1 + max(one.reply_positions for one in config.search.shares)
    with bar("decoders", len(banks[0]) + len(banks[1].some(beside_of(len(banks[0]))))) as progress:
        chosen = list(stand)[: config.read.decoded]
        both = {"learned": banks[0], "null": banks[1]}
        return decodings(loaded, batch, reference.replies[: len(batch.prompts)], both, chosen, read, config, progress.update)


def _hints(
    config: Config,
    loaded: LoadedModel,
    batch: PromptBatch,
    found: list[Finding],
    said: list[Completion],
    banks: tuple[VectorBank, VectorBank],
) -> list[Hint]:
    """Return what the vectors of findings, fragments and anomalies point at."""
    examples = [(one, said[one.examples[0]]) for one in found if one.level]
    behaviours = [
        Behaviour(one.mode, (example.vector or 0) if example.bank == "learned" else one.vectors[0], example)
        for one, example in examples
    ]
    with bar("hints", replies_of_hints(behaviours)) as progress:
        return hints(loaded, batch, behaviours, said, banks[0], len(banks[1]), config.speech, progress.update)


def _uses(
    config: Config,
    loaded: LoadedModel,
    found: list[Finding],
    said: list[Completion],
    banks: tuple[VectorBank, VectorBank],
    asked: Asked,
) -> list[Use]:
    """Return what the vectors of the strongest findings do on other prompts."""
    chosen = [one for one in found if one.verdict == "finding"][: config.audit.used]
    doses = config.audit.doses
    with bar("uses", replies_of_uses(len(chosen), asked, doses)) as progress:
        return uses(loaded, chosen, said, banks, asked, doses, config.prompts, config.speech, progress.update)


def _mapped(
    config: Config,
    loaded: LoadedModel,
    batch: PromptBatch,
    begun: Sequence[Reply],
    grounds: Sequence[Ground],
    banks: tuple[VectorBank, VectorBank],
    said: list[Completion],
    groups: list[Mode],
    embed: Embed,
) -> EffectMap | None:
    """Return the map of effects at the end of the prompt and at the first tokens of the unsteered reply, if it is asked for."""
    if not config.read.mapped:
        return None
    views = [
        (whole_reader(one.part, one.reply_tokens), chunks(one.part, one.search.chunk))
        for one in sighted(grounds, loaded, batch, begun[: len(batch.prompts)])
    ]
    with bar("map", compared(banks)) as progress:
        return effect_map(views, banks, said, groups, stability(said, groups, embed), progress.update)


def _null(config: Config, bank: VectorBank, grounds: Sequence[Ground]) -> VectorBank:
    return random_bank(bank, [one.space for one in grounds], null_vectors(config), config.seed)


def _triage(
    config: Config,
    loaded: LoadedModel,
    batch: PromptBatch,
    reference: UnsteeredReference,
    bank: VectorBank,
    null: VectorBank,
) -> list[Glance]:
    """Return what every vector of both banks does before it speaks."""
    own, rows = reference.replies[: len(batch.prompts)], config.speech.rows
    seen = sight(loaded, batch, own, bank.target_layer)
    with bar("triage", len(bank) + len(null)) as progress:
        learned = glances(seen, "learned", bank, DOSES, rows, progress.update)
        return [*learned, *glances(seen, "null", null, (), rows, progress.update)]


def _speech(
    config: Config,
    loaded: LoadedModel,
    every: PromptBatch,
    batch: PromptBatch,
    reference: UnsteeredReference,
    banks: tuple[VectorBank, VectorBank],
    seen: list[Glance],
) -> list[Completion]:
    """Return everything that is said: unsteered, under both banks, from forced tokens and from what vectors boost.

    First tokens are forced, and boosted ones followed, on the user's prompts; every vector speaks to the neutral ones as well.
    """
    count = min(config.audit.forced_tokens, loaded.model.config.get_text_config(decoder=True).vocab_size)
    named = dict(zip(("learned", "null"), banks, strict=True))
    own = reference.prompts(slice(len(batch.prompts)))
    spoken_by = len(every.prompts) * (1 + config.speech.samples) * len(seen)
    leads = leads_followed(config)
    with bar("speech", spoken_by + len(batch.prompts) * count + leads * (FURTHER + 1)) as progress:
        if config.speech.budget < 1:
            steered = halved(loaded, every, reference, named, seen, config.speech, progress.update)
        else:
            steered = [
                one
                for name, bank in named.items()
                for one in spoken(loaded, every, reference, name, bank, config.speech, progress.update)
            ]
        begun = forced(loaded, batch, own, count, config.speech, progress.update) if count else []
        said = [*own_completions(reference), *steered, *begun]
        hinted = followed(loaded, batch.rows(slice(1)), own, said, named, seen, leads, config.speech, progress.update)
        more = [
            sampled(loaded, every, reference, name, bank, config.speech, config.seed, progress.update)
            for name, bank in named.items()
        ]
    return [*said, *hinted, *chain.from_iterable(more)]
