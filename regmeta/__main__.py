"""``python -m regmeta``."""

from regmeta.cli import main

main()
