"""What a run will spend, in vector-steps and tokens, said before it begins."""

from dataclasses import asdict, dataclass

from discover.pilot.choice import SCOUTS, listened, tried
from discover.pilot.plan import Plan, leads_followed, learned_vectors, null_vectors, samples
from discover.read.leads import FURTHER


@dataclass(frozen=True)
class Budget:
    """Vector-steps and tokens of a run, at most."""

    pilot_steps: int
    """Gradients of a vector that the pilot takes, over all arms."""
    pilot_tokens: int
    search_steps: int
    """The same for the bank, if the arms of most rounds are kept."""
    speech_tokens: int
    """Of the bank, the null and the unsteered samples, forced and followed openings included."""

    def __str__(self) -> str:
        """Return one sentence."""
        pilot = f"the pilot {self.pilot_steps:,} vector-steps and {self.pilot_tokens:,} tokens, " if self.pilot_tokens else ""
        return f"Budget, at most: {pilot}the search {self.search_steps:,} vector-steps, speech {self.speech_tokens:,} tokens."

    @property
    def record(self) -> dict[str, int]:
        """The numbers by name, for run.json."""
        return asdict(self)


def budget(plan: Plan) -> Budget:
    """Return what a run will spend."""
    config, heard = plan.config, len(plan.every.prompts)
    tokens = config.speech.tokens
    rounds = [arm.search.steps if arm.search.chosen_rounds == 0 else arm.search.chosen_rounds for arm in plan.arms]
    replies = (learned_vectors(config) + null_vectors(config)) * (1 + config.speech.samples) + samples(config) + 1
    openings = len(plan.batch.prompts) * config.audit.forced_tokens + leads_followed(config) * (FURTHER + 1)
    # Every arm may have to be tried again at another radius.
    in_pilot = listened(config, plan.arms, heard) + tried(config, plan.arms, heard)
    return Budget(
        pilot_steps=sum(rounds) * (SCOUTS + 2 * config.pilot.vectors) if plan.piloted else 0,
        pilot_tokens=in_pilot * min(config.pilot.tokens, tokens) if plan.piloted else 0,
        search_steps=max(rounds) * config.search.vectors,
        speech_tokens=int(tokens * (replies * heard + openings)),
    )
