"""`discover bench`: what its words mean."""

from dataclasses import replace

from discover.bench.options import OF_SPEECH, QUICK, BenchConfig, Part
from discover.errors import UsageError
from discover.schema import check_option


def bench(words: list[str]) -> None:
    """Run a bench; its options are key=value words, as those of a run are.

    Raises:
        UsageError: there is no such bench or option, or it cannot be done.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    verb, *given = words or [""]
    alone = {"generate": Part.generate, "run": Part.run}
    if verb not in ("search", "memory", *alone):
        raise UsageError(
            f"discover bench takes search, memory, generate or run first, not {verb!r}; `discover bench --help` shows them."
        )
    for word in given:
        if "=" not in word:
            raise UsageError(f"discover bench takes options as key=value, not {word!r}; `discover bench --help` shows them.")
        name = word.partition("=")[0]
        check_option(name, BenchConfig)
        if verb in alone and name.partition(".")[0] not in OF_SPEECH:
            raise UsageError(f"discover bench {verb} does not look at {name}; it takes {', '.join(OF_SPEECH)}.*.")
    try:
        asked = OmegaConf.from_dotlist(given)
        start = QUICK if asked.get("quick") else {}
        options = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(BenchConfig), start, asked))
    except OmegaConfBaseException as error:
        raise UsageError(
            f"{error.full_key or 'discover bench'}: {' '.join(str(error).split('full_key:')[0].split())}."
        ) from error
    assert isinstance(options, BenchConfig)
    if verb == "memory":
        from discover.bench.memory import print_memory

        print_memory(options)
    else:
        from discover.bench import commands

        commands.bench(replace(options, parts=[alone[verb]]) if verb in alone else options)
