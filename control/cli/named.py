"""Show and delete, which are the same for all simple things that have a name."""

from __future__ import annotations

import argparse
from typing import Any

from compute.errors import MagnetarError
from control.cli.base import Command, ShowOne, shown, tell


class ShowNamed(ShowOne):
    """Show one thing; ``noun`` is its kind, and the name of the method's argument."""

    noun = ""
    kinds: dict[str, Any] = {}

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One name or ID."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar=self.noun.upper(), help="Name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """All that is known about it."""
        found = self.client.call(f"{self.noun}.show", **{self.noun: parsed_args.name})
        return shown(found, self.kinds)


class DeleteNamed(Command):
    """Delete things; a failure of one does not keep the others from being deleted."""

    noun = ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One or more names or IDs."""
        parser = super().get_parser(prog_name)
        parser.add_argument("names", nargs="+", metavar=self.noun.upper(), help="Name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Delete each; 1 when any could not be deleted."""
        code = 0
        for name in parsed_args.names:
            try:
                self.client.call(f"{self.noun}.delete", **{self.noun: name})
            except MagnetarError as error:
                tell(error)
                code = 1
        return code
