"""The command line."""


def main() -> None:
    """Run the command line."""
    raise SystemExit("regmeta: no command yet")
