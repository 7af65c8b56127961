"""The command `discover`: which verb is asked for, and how every mistake is told; `verbs` says what its words mean."""

import errno
import os
import sys
from collections.abc import Callable, Sequence

from discover.errors import UsageError
from discover.verbs import run
from discover.verbs.bench import bench
from discover.verbs.organism import organism
from discover.verbs.report import USAGE as REPORT_USAGE
from discover.verbs.report import report
from discover.verbs.steer import steer

USAGE = """discover: find what a language model can be pushed into doing, without being told what to look for

  discover                                  the main job on the built-in organism `arithmetic`
  discover model.path=FOLDER_OR_HUB_ID 'prompts.texts=["…"]'
                                            the same on your model and prompt
  discover -m seed=0,1,2 search.radius=…    a sweep: every combination is a run of its own
  discover sweep NAME …                     a prepared sweep: seeds, radius or layers
  discover folder=RUN …                     a run in a folder of your choice; otherwise below outputs/ by date and time
  discover --dry-run …                      say what a run would cost in time and memory, and do nothing
  discover run.minutes=10 …                 a run in the size that takes about so long here
  discover resume RUN                       go on with an interrupted run
  discover report RUN                       write a run's report anew; of several runs, or a sweep's folder: compare them
  discover steer RUN --add 3:1.5            talk to a run's model under its vectors; `discover steer --help` has the options
  discover atlas …                          every pair of layers of a model: which amplify a direction most
  discover contrast …                       a direction from labelled examples: refusal, difference in means, attention heads
  discover organism list                    the built-in models with known, planted behaviour
  discover organism check NAME              measure that such a model does what it should
  discover organism train NAME              train it again
  discover organism plant BASE --recipe R   plant a behaviour into a checkpoint by an adapter, or its twin with --twin
  discover organism oracle NAME             which vectors are known to bring out what is planted
  discover organism score RUN …             hold finished runs on organisms against the truth
  discover bench search                     which method finds what at what cost; `discover bench --help` has its options
  discover --cfg job                        every option with its value
  discover --help                           this text

Options are key=value; discover/config.py says what each means.
Exit status: 0 done, 2 something asked for cannot be done (one sentence says what), 1 a failure of the program.
"""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
KERNELS = {"LRU_CACHE_CAPACITY": "16", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16"}
"""How many compiled kernels torch and oneDNN keep. Every token that is generated has shapes of its own, and in bfloat16 on a CPU
the usual thousand fill gigabytes: 7.4 GB instead of 1.0 GB while SmolLM2 is sampled."""
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # What a run notes as the command that began it.
    sys.argv = ["discover", *words]
    for name, kernels in KERNELS.items():
        os.environ.setdefault(name, kernels)
    try:
        _command(words)()
    except UsageError as error:
        _fail(str(error))
    except (MemoryError, RuntimeError) as error:
        from discover.model.memory import out_of_memory

        if not out_of_memory(error):
            raise
        _fail("There is not enough memory; give fewer or shorter prompts, or a smaller search.vectors or audit.null_vectors.")
    except KeyboardInterrupt:
        again = {"bench": "; the same command goes on where it stood", "steer": "", "report": ""}
        told = again.get(words[0] if words else "", "; `discover resume RUN` goes on where it stood")
        print(f"\nInterrupted{told}.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # What was read from us has closed, as `head` does. Python writes once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno in UNWRITABLE:
            _fail(f"{error.filename} cannot be written ({error.strerror}); choose another place with folder=PATH.")
        if error.errno not in FULL:
            raise
        _fail(f"There is no room left to write ({error.strerror}); free some, then `discover resume RUN` goes on where it stood.")


def _fail(sentence: str) -> None:
    print(f"discover: {sentence}", file=sys.stderr)
    sys.exit(2)


def _command(words: list[str]) -> Callable[[], None]:
    """Return what the words ask for; a word that is no verb is a Hydra override."""
    match words:
        case ["bench", *_, "--help" | "-h" | "help"]:
            from discover.bench.options import USAGE as BENCH_USAGE

            return lambda: print(BENCH_USAGE, end="")
        case ["report", *_, "--help" | "-h" | "help"]:
            return lambda: print(REPORT_USAGE, end="")
        case ["report", *rest]:
            return lambda: report(rest)
        case ["steer", *rest]:
            return lambda: steer(rest)
        case ["--help" | "-h" | "help", *_]:
            return lambda: print(USAGE, end="")
        case ["resume", *rest]:
            return lambda: run.resume(rest)
        case ["sweep", *rest]:
            return lambda: run.sweep(rest)
        case ["atlas", *rest]:
            return lambda: run.composed(rest, run.chart)
        case ["contrast", *rest]:
            return lambda: run.composed(rest, run.contrast)
        case ["organism", *rest]:
            return lambda: organism(rest)
        case ["bench", *rest]:
            return lambda: bench(rest)
        case _:
            return lambda: run.main_job(words)
