"""`python -m tokenprior` is the command line."""

from tokenprior.cli import main

main()
