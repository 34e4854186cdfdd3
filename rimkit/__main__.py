"""``python -m rimkit``: the command line, where no script is on the path."""

from rimkit.cli import main

main()
