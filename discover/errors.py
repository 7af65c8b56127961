"""The one exception that a user's mistake raises."""


class UsageError(Exception):
    """A mistake in what the user asked for, told in one sentence: what came, what is allowed, what to do.

    The command line prints it without a traceback and exits with status 2.
    """
