"""The one exception that a user's mistake raises, and what it says of others."""


class UsageError(Exception):
    """A mistake in what the user asked for, told in one sentence: what came, what is allowed, what to do.

    The command line prints it without a traceback and exits with status 2.
    """


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
