"""`python -m landrace` is the `landrace` command."""

from landrace.cli.main import main

main()
