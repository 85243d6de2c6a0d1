"""Lets `python -m hearthnet` stand in for the `hearthnet` command."""

from hearthnet.cli.main import main

if __name__ == "__main__":
    main()
