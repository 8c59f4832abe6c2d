"""The command line: a file for each noun. A command parses, calls one use case and renders the answer.

Data goes to stdout, talk goes to stderr. Exit codes are those of ``regmeta.errors``; 70 is a defect of
regmeta itself, 130 means that the user interrupted and 143 that SIGTERM did. Commands import what they call
when they are called, so that ``--help`` starts fast.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process."""
    import atexit
    import gc

    # Imports make objects that stay: looking through them again and again, and once more at the end, costs
    # a third of the time that a small command takes.
    gc.set_threshold(100_000, 50, 100)
    atexit.register(gc.freeze)
    from regmeta.cli.root import app

    app()
