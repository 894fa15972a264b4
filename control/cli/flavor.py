"""Commands about flavors."""

from __future__ import annotations

import argparse
from typing import Any

from control.cli.base import Lister, ShowOne, add_property, pairs, shown, table
from control.cli.columns import GiB, MiB
from control.cli.named import DeleteNamed, ShowNamed

COLUMNS = (
    ("ID", "id"),
    ("Name", "name"),
    ("RAM", "ram"),
    ("Disk", "disk"),
    ("VCPUs", "vcpus"),
    ("Properties", "properties"),
)
KINDS = {"ram": MiB, "swap": MiB, "disk": GiB, "ephemeral": GiB}


class Create(ShowOne):
    """Create a flavor"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Options as openstackclient names them."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("name", metavar="NAME")
        add("--ram", type=int, required=True, metavar="MIB", help="Memory.")
        add("--disk", type=int, default=0, metavar="GIB", help="Root disk; 0: as the image.")
        add("--vcpus", type=int, default=1, metavar="N", help="Virtual CPUs (default 1).")
        add("--ephemeral", type=int, default=0, metavar="GIB", help="Second, empty disk.")
        add("--swap", type=int, default=0, metavar="MIB", help="Swap disk.")
        add("--id", metavar="ID", help="Its ID; a new one if not given.")
        add_property(parser, "Extra spec such as hw:cpu_policy=shared; may be repeated.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Create it."""
        flavor = self.client.call(
            "flavor.create",
            name=parsed_args.name,
            ram=parsed_args.ram,
            disk=parsed_args.disk,
            vcpus=parsed_args.vcpus,
            ephemeral=parsed_args.ephemeral,
            swap=parsed_args.swap,
            id=parsed_args.id,
            properties=pairs(parsed_args.property),
        )
        return shown(flavor, KINDS)


class List(Lister):
    """List flavors"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """All flavors."""
        return table(self.client.call("flavor.list"), COLUMNS, KINDS)


class Show(ShowNamed):
    """Show a flavor"""

    noun, kinds = "flavor", KINDS


class Delete(DeleteNamed):
    """Delete flavors; servers keep their own copy"""

    noun = "flavor"
