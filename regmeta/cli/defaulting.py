"""Groups in which one command need not be named: ``regmeta usage team`` is ``regmeta usage show team``."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, ClassVar

from typer.core import TyperGroup

from regmeta.errors import UsageError


class ShowByDefault(TyperGroup):
    """Takes what is no command of the group for what *show* is to show; a leading option as well."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in, where it is not named."""
        first = args[0] if args else None
        if first not in self.commands and first not in ("--help", "-h"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


class TakesArgument(TyperGroup):
    """Takes what is none of its commands for an argument of its *default* command.

    What looks like a command that was mistyped is refused.
    """

    default: ClassVar[str]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that *args* begin with.

        Raises:
            UsageError: it looks like a command that was mistyped.
        """
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            meant = get_close_matches(args[0], self.list_commands(ctx), n=1)
            if meant and not self.is_argument(args[0]):
                named = f"regmeta {ctx.info_name} {meant[0]}"
                raise UsageError(f"no such command: {args[0]!r} (did you mean {named!r}?)")
            args = [self.default, *args]
        return super().resolve_command(ctx, args)

    def is_argument(self, text: str) -> bool:
        """Tell whether a text is an argument for certain, however much it looks like a command."""
        return False
