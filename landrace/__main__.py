"""`python -m landrace` and the `landrace` command: a Ctrl-C while Python still reads its code ends it quietly."""

import sys


def main() -> None:
    """Runs the command."""
    try:
        from landrace.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
