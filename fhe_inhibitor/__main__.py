"""`python -m fhe_inhibitor` is the command `fhe-inhibitor`."""

from typing import NoReturn

from fhe_inhibitor.system.huge_pages import restart_with_huge_pages


def main() -> NoReturn:
    """Run the command line on the arguments of the process, on huge pages, and exit."""
    restart_with_huge_pages()
    from fhe_inhibitor.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
