"""`python -m groundup`."""

from groundup.cli.main import main

main()
