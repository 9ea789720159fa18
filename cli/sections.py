"""The list of commands that `offramp -h` shows: by what one does with them, in the order of use, a line for each."""

from collections.abc import Mapping
from typing import Any

import click

__all__ = ["SectionedGroup"]


class SectionedGroup(click.Group):
    """A group whose commands stand in sections.

    Attributes:
        sections: the commands of each section, by its title.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.sections: dict[str, tuple[click.Command, ...]] = {}

    def add_section(self, title: str, commands: Mapping[click.Command, str]) -> None:
        """Add commands, each with the line that says what it does."""
        self.sections[title] = tuple(commands)
        for command, line in commands.items():
            command.short_help = line
            self.add_command(command)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read what stands before the command; of an option that only commands have, say where it stands."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise click.UsageError(
                f"{error.message} Options stand behind the command: offramp COMMAND {error.option_name}.", ctx
            ) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, their lines below each other."""
        longest = max(map(len, self.commands))
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(f"{one.name:<{longest}}", one.short_help or "") for one in commands])
