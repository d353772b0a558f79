"""`python -m fhe_inhibitor` is the command `fhe-inhibitor`."""

from fhe_inhibitor.cli.main import main

if __name__ == "__main__":
    main()
