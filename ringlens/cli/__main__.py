"""``python -m ringlens.cli``, as under torchrun."""

from ringlens.cli.main import main

if __name__ == "__main__":
    main()
