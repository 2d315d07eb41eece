"""`python -m phosphene` is the command."""

from phosphene.cli import main

main()
