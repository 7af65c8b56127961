"""The parser of a verb's words."""

import argparse
from typing import NoReturn

from discover.errors import UsageError


class Words(argparse.ArgumentParser):
    """A parser that tells a mistake as every other is told."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError; argparse would print its usage and leave."""
        verb = " ".join(self.prog.split()[1:])
        raise UsageError(f"{verb} {message}; `{' '.join(self.prog.split()[:2])} --help` shows what there is.".strip())
