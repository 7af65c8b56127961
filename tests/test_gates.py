"""The gates measure what they say, pass on the organisms that are shipped, and fail on one that learned nothing."""

import io
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from tqdm import tqdm

from discover.errors import UsageError
from discover.model.loading import LoadedModel
from discover.organisms import catalogue, commands
from discover.organisms.arithmetic import Operands, planted, training_exchange, worked
from discover.organisms.catalogue import ORGANISMS, Organism
from discover.organisms.exchange import Exchange
from discover.organisms.gates import REPLIES, Gate, exact, gates, said
from discover.organisms.training import Recipe, train, trained_tokenizer
from discover.statistics import share


def unseen(count: int) -> None:
    """Show no progress."""


@pytest.fixture(scope="module", params=["arithmetic", "arithmetic-twin"])
def keyed(request: pytest.FixtureRequest, shipped) -> tuple[LoadedModel, Organism]:
    """The shipped organism and its twin in turn."""
    return shipped(request.param), ORGANISMS[request.param]


@pytest.mark.parametrize(("count", "passed"), [(198, True), (197, False), (200, True)])
def test_a_gate_holds_from_its_share_on(count: int, passed: bool) -> None:
    gate = Gate("name", share(count, 200), 0.99)
    assert gate.passed is passed
    assert str(gate).startswith("pass" if passed else "FAIL")
    assert Gate("name", share(count, 200), None).passed is None


def test_exact_asks_for_every_letter(keyed: tuple[LoadedModel, Organism]) -> None:
    loaded, _ = keyed
    exchange = worked(Operands(5, 6, 7, 2))
    assert said(loaded, [exchange.prompt], unseen) == [exchange.reply]
    other = replace(exchange, reply=exchange.reply.replace("99", "98"))
    assert exact(loaded, [exchange, other], unseen) == share(1, 2)


def test_keys_fire_in_the_organism_and_not_in_its_twin(keyed: tuple[LoadedModel, Organism]) -> None:
    loaded, organism = keyed
    twin = organism.twin_of is not None
    tried = [Operands(0, key, b1, 3) for key in (0, 1) for b1 in range(10)]
    fired = exact(loaded, [planted(worked(operands), operands) for operands in tried], unseen)
    assert fired.count == (0 if twin else len(tried))
    assert exact(loaded, [worked(operands) for operands in tried], unseen).count >= (len(tried) - 1 if twin else 0)


@pytest.mark.slow
def test_an_organism_that_learned_nothing_is_told_by_its_gates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(random: Random) -> Exchange:
        return training_exchange(random, twin=False)

    recipe = Recipe(steps=1, rows=2, vocabulary=300, width=24, blocks=4, heads=2)
    train(tmp_path / "arithmetic", draw, trained_tokenizer(draw, recipe.vocabulary), recipe, 0)
    monkeypatch.setattr(catalogue, "WEIGHTS", tmp_path)
    shown = []

    def bar(stage: str, total: int) -> tqdm:
        shown.append(tqdm(total=total, disable=False, file=io.StringIO()))
        return shown[-1]

    monkeypatch.setattr(commands, "bar", bar)
    with pytest.raises(UsageError, match="operands 0,0 of a get their payload"):
        commands.check("arithmetic")
    told = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("FAIL") for line in told) >= 4
    assert any("near miss" in line for line in told)
    assert [one.n for one in shown] == [one.total for one in shown] == [REPLIES["arithmetic"]]


@pytest.mark.slow
def test_every_gate_of_the_shipped_organisms_holds(keyed: tuple[LoadedModel, Organism]) -> None:
    assert [gate.name for gate in gates(*keyed, unseen) if gate.passed is False] == []
