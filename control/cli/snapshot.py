"""Commands that make images of servers."""

from __future__ import annotations

import argparse
from typing import Any

from control.cli.base import ShowOne, add_property, pairs, shown
from control.cli.image import KINDS
from control.cli.server import add_wait
from control.cli.wait import wait_for_image


class ImageCreate(ShowOne):
    """Make an image of a server's root disk, while the server goes on"""

    method = "server.image_create"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Options as openstackclient names them."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("--name", metavar="NAME", help="Name of the image (default: the server's).")
        add_property(parser, "Property of the image; may be repeated.")
        add("server", metavar="SERVER", help="Name or ID.")
        add_wait(parser, "the image is active")
        return parser

    def arguments(self, parsed_args: argparse.Namespace) -> dict[str, Any]:
        """Further arguments of the call."""
        return {}

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Ask for it; its host stores it after this returns, unless --wait is given."""
        server = self.client.call("server.show", server=parsed_args.server)
        image = self.client.call(self.method, server=server["id"], name=parsed_args.name,
                                 properties=pairs(parsed_args.property),
                                 **self.arguments(parsed_args))
        if parsed_args.wait:
            image = wait_for_image(self.client, server, image, parsed_args.timeout)
        return shown(image, KINDS)


class BackupCreate(ImageCreate):
    """The same, and older backups of the server of this type make way"""

    method = "server.backup_create"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """--type and --rotate as openstackclient has them."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--type", default="", metavar="TYPE",
                            help="Word for its kind, such as daily; each is counted by itself.")
        parser.add_argument("--rotate", type=int, default=1, metavar="COUNT",
                            help="How many of this type stay, the new one included (default 1).")
        return parser

    def arguments(self, parsed_args: argparse.Namespace) -> dict[str, Any]:
        """Which kind, and how many stay."""
        return {"backup_type": parsed_args.type, "rotation": parsed_args.rotate}
