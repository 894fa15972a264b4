"""Commands about server groups."""

from __future__ import annotations

import argparse
from typing import Any

from control.cli.base import Lister, ShowOne, shown, table
from control.cli.named import DeleteNamed, ShowNamed

COLUMNS = (("ID", "id"), ("Name", "name"), ("Policy", "policy"), ("Members", "members"))


class Create(ShowOne):
    """Create a server group; servers join it by --hint group=NAME"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Name and policy."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME")
        parser.add_argument(
            "--policy",
            choices=["affinity", "anti-affinity"],
            default="anti-affinity",
            help="All on one host, or each on another one (default).",
        )
        parser.add_argument(
            "--max-server-per-host",
            type=int,
            metavar="N",
            help="With anti-affinity: allow so many on one host.",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Create it."""
        group = self.client.call(
            "group.create",
            name=parsed_args.name,
            policy=parsed_args.policy,
            max_server_per_host=parsed_args.max_server_per_host,
        )
        return shown(group)


class List(Lister):
    """List server groups"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """All server groups."""
        return table(self.client.call("group.list"), COLUMNS)


class Show(ShowNamed):
    """Show a server group"""

    noun = "group"


class Delete(DeleteNamed):
    """Delete server groups; their servers stay where they are"""

    noun = "group"
