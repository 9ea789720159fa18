"""`python -m offramp` runs the command line."""

from .cli import main

main()
