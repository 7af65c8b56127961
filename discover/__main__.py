"""`python -m discover`."""

from discover.cli import main

main()
