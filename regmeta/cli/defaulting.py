"""Groups in which one command need not be named: ``regmeta usage team`` is ``regmeta usage show team``."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class ShowByDefault(TyperGroup):
    """Takes what is no command of the group for what *show* is to show; a leading option as well."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in, where it is not named."""
        first = args[0] if args else None
        if first not in self.commands and first not in ("--help", "-h"):
            args = ["show", *args]
        return super().parse_args(ctx, args)
