"""What a run will spend, in vector-steps and tokens, said before it begins."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from discover.config import Config
from discover.pilot.arms import Arm
from discover.pilot.choice import SCOUTS, listened, tried
from discover.read.leads import FOLLOWED, FURTHER


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


def budget(config: Config, arms: Sequence[Arm], piloted: bool, asked: int, heard: int, null_vectors: int) -> Budget:
    """Return what a run will spend.

    Args:
        config: of the run.
        arms: ways to learn.
        piloted: whether a pilot tries them first.
        asked: prompts of the user.
        heard: prompts that vectors speak to, the neutral ones among them.
        null_vectors: random vectors beside the bank.
    """
    vectors, tokens = config.search.vectors, config.speech.tokens
    learned = vectors * (2 if config.search.both_signs else 1)
    rounds = [arm.search.steps if arm.search.chosen_rounds == 0 else arm.search.chosen_rounds for arm in arms]
    replies = (learned + null_vectors) * (1 + config.speech.samples) + (config.audit.samples or vectors) + 1
    openings = asked * config.audit.forced_tokens + FOLLOWED * (FURTHER + 1)
    # Every arm may have to be tried again at another radius.
    in_pilot = listened(config, arms, heard) + tried(config, arms, heard)
    return Budget(
        pilot_steps=sum(rounds) * (SCOUTS + 2 * config.pilot.vectors) if piloted else 0,
        pilot_tokens=in_pilot * min(config.pilot.tokens, tokens) if piloted else 0,
        search_steps=max(rounds) * vectors,
        speech_tokens=int(tokens * (replies * heard + openings)),
    )
