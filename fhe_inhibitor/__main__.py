"""`python -m fhe_inhibitor` is the command `fhe-inhibitor`."""

from fhe_inhibitor.command_line import main

if __name__ == "__main__":
    main()
