"""The conversation that `discover steer` asks for: what is loaded, read from the user, and shown."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path

from discover.bank import VectorBank
from discover.config import Config
from discover.errors import UsageError
from discover.folder import saved_config
from discover.model.adapter import is_adapter
from discover.model.loading import LoadedModel, load
from discover.organisms.catalogue import checkpoint
from discover.report.dialogue import in_blocks, in_columns
from discover.report.text import visible
from discover.steer.combination import check_fits, combined, directions
from discover.steer.conversation import Speaker, check_prompt
from discover.steer.interventions import orthonormal_rows
from discover.steer.orthogonal import orthogonalised
from discover.steer.request import Manner, Request
from discover.storage import read_json
from discover.verbs.measure import measured

WIDE = 80
"""Columns of a terminal from which on replies stand side by side."""
COMMANDS = """/reset  forget what was said before
/quit   leave, as at the end of the input
/help   this text
Anything else is said to the model; \\n stands for a line break in it, and Ctrl-C stops a reply.
"""


def talk(path: Path, model: str | None, request: Request, manner: Manner, prompts: Sequence[str], questions: Path | None) -> None:
    """Let the model of a run reply, steered and unsteered, to some prompts, or to those that come from standard input.

    Where there are questions, what it answers to them is measured instead.

    Raises:
        UsageError: request, bank, model and prompts do not go together.
    """
    # What can be refused without the model is refused before it is there, which may take minutes.
    for prompt in prompts:
        check_prompt(prompt)
    bank, config = VectorBank.load(path), _config(path, model)
    interventions, away = combined(bank, request), directions(bank, request.orthogonalise) if request.orthogonalise else None
    loaded = load(config.model, checkpoint(config.model.path))
    check_fits(bank, loaded)
    if model is not None and config.prompts.chat is not False:
        _compare_templates(path, loaded)
    changed = loaded.apart()
    speakers = {
        "unsteered": Speaker(loaded, (), config.prompts),
        f"steered: {request}": Speaker(changed, interventions, config.prompts),
    }
    without: AbstractContextManager[None] = nullcontext() if away is None else orthogonalised(changed, orthonormal_rows(away))
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, TextIOWrapper):
            # What a terminal cannot show, or a line that is not UTF-8, must not end a conversation.
            stream.reconfigure(errors="backslashreplace" if stream is sys.stdout else "replace")
    with without:
        if questions is not None:
            _write(
                measured(loaded, changed, away is not None, interventions, questions, config.prompts, manner.tokens, str(request))
            )
        elif prompts:
            for prompt in prompts:
                _forget(speakers)
                if len(prompts) > 1:
                    _write(f"> {visible(prompt)}\n\n")
                _answer(speakers, prompt, manner)
        else:
            _converse(speakers, manner)


def _config(path: Path, model: str | None) -> Config:
    """Return the config of the run that a bank stands in, with another model where one is named."""
    folder = path if path.is_dir() else path.parent
    if model is None and not (folder / "run.json").exists():
        raise UsageError(f"{folder} holds no run.json to say which model the bank is for; give it with --model.")
    config = saved_config(folder) if (folder / "run.json").exists() else Config()
    if model is None or model == config.model.path:
        return config
    # An adapter named here says itself which model it is for, or is for the one that the run's was.
    base = config.model.base if is_adapter(model) else None
    return replace(config, model=replace(config.model, path=model, base=base, revision=None))


def _compare_templates(path: Path, loaded: LoadedModel) -> None:
    """Say where another model is given prompts in another form than the run's own model was."""
    record = (path if path.is_dir() else path.parent) / "run.json"
    own = read_json(record).get("model", {}).get("chat_template") if record.exists() else None
    if own is not None and own != loaded.identity["chat_template"]:
        print(
            f"discover: note: the chat template of {loaded.identity['path']} differs from that of the run's model, so it sees "
            "prompts in a different format from the one that the vectors were learned on.",
            file=sys.stderr,
        )


def _converse(speakers: dict[str, Speaker], manner: Manner) -> None:
    """Reply to every line of standard input until it ends."""
    _write(COMMANDS + "\n")
    for line in _lines():
        match line.strip():
            case "/quit":
                return
            case "/reset":
                _forget(speakers)
            case "/help":
                _write(COMMANDS + "\n")
            case _:
                try:
                    _answer(speakers, line.replace("\\n", "\n"), manner)
                except UsageError as mistake:
                    print(f"discover: {mistake}", file=sys.stderr)
                except KeyboardInterrupt:
                    _write("\n(stopped; this turn is forgotten)\n\n")


def _lines() -> Iterator[str]:
    """Yield what the user types, a line at a time; what comes from a file or a pipe is shown as if it were typed."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401 - with it, lines can be edited.
        with suppress(EOFError):
            while True:
                yield input("> ")
        _write("\n")
        return
    for line in sys.stdin:
        _write(f"> {visible(line.rstrip())}\n\n")
        yield line.rstrip("\r\n")


def _forget(speakers: dict[str, Speaker]) -> None:
    for speaker in speakers.values():
        speaker.said.clear()


def _answer(speakers: dict[str, Speaker], prompt: str, manner: Manner) -> None:
    """Show every speaker's reply to a prompt; it becomes part of what was said when all of them are whole."""
    with ExitStack() as stack:
        voices = []
        for label, speaker in speakers.items():
            pieces = speaker.reply(prompt, manner)
            # A reply that is stopped must let go of its model at once, for the next one to begin with a model left alone.
            stack.callback(pieces.close)
            voices.append((label, pieces))
        wide = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 0
        texts = in_columns(voices, wide, _write) if wide >= WIDE else in_blocks(voices, _write)
    for speaker, text in zip(speakers.values(), texts, strict=True):
        speaker.said += [prompt, text]


def _write(text: str) -> None:
    print(text, end="", flush=True)
