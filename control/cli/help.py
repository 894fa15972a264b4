"""``magnetar help``: all commands, those that begin with a word, or one in full."""

from __future__ import annotations

import argparse
import itertools

from control.cli.app import COMMANDS
from control.cli.base import Command, usage


class Help(Command):
    """Show help about commands"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The words of a command."""
        parser = super().get_parser(prog_name)
        parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Print the help that fits the words."""
        words = list(itertools.takewhile(lambda w: not w.startswith("-"), parsed_args.words))
        if not words:
            self.app.parser.print_help(self.app.stdout)
            self._list("\nCommands:", list(COMMANDS))
            return 0
        try:
            factory, name, _ = self.app.command_manager.find_command(words)
        except ValueError:
            names = [name for name in COMMANDS if name.split()[: len(words)] == words]
            if not names:
                raise usage(f"magnetar has no command '{' '.join(words)}'.") from None
            self._list(f"Commands of {' '.join(words)}:", names)
            return 0
        command = factory(self.app, self.app_args, cmd_name=name)
        command.get_parser(f"{self.app.NAME} {name}").print_help(self.app.stdout)
        return 0

    def _list(self, title: str, names: list[str]) -> None:
        print(title, file=self.app.stdout)
        for name in names:
            factory = self.app.command_manager.commands[name].load()
            print(f"  {name:<18}{factory.__doc__.splitlines()[0]}", file=self.app.stdout)
