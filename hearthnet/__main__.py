"""Entry point of `python -m hearthnet`, the same as the `hearthnet` command."""

from hearthnet.cli.main import main

if __name__ == "__main__":
    main()
