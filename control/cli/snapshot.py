"""Commands that make images of servers, and servers anew of images."""

from __future__ import annotations

import argparse
from typing import Any

from compute.errors import MagnetarError
from control.cli.base import Command, ShowOne, add_property, pairs, shown, tell
from control.cli.image import KINDS
from control.cli.server import Verb, add_wait
from control.cli.wait import wait_for, wait_for_image


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


class Rebuild(Command):
    """Give a server new disks from an image; what was on its disks is lost"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Options as openstackclient names them."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("--image", metavar="IMAGE", help="From this image (default: its own).")
        add("--name", metavar="NAME", help="A new name for the server.")
        add("--password", metavar="WORD", help="Its administrator's password (default: a new one).")
        add_property(parser, "Metadata instead of what it has; may be repeated.")
        add("server", metavar="SERVER", help="Name or ID.")
        add_wait(parser, "it is as it was, on new disks")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Ask for it, then wait for its end if told to."""
        server = self.client.call("server.show", server=parsed_args.server)
        self.client.call("server.rebuild", server=server["id"], image=parsed_args.image,
                         name=parsed_args.name, password=parsed_args.password,
                         properties=pairs(parsed_args.property) or None)
        if parsed_args.wait:
            wanted = "stopped" if server["vm_state"] == "stopped" else "active"
            wait_for(self.client, server, wanted, parsed_args.timeout)
        return 0


class Shelve(Verb):
    """Shelve servers: they are stopped and kept as images; their addresses stay theirs"""

    method, awaited = "server.shelve", "they are shelved"
    shelved = ("shelved", "shelved_offloaded")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """--offload as openstackclient has it."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--offload", action="store_true",
                            help="Also give their disks and room on their hosts back.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Ask for all of them; to be offloaded they have to be shelved first, which is waited for.
        """
        code = 0
        for name in parsed_args.server:
            try:
                server = self.client.call("server.show", server=name)
                self.one(server, parsed_args)
            except MagnetarError as error:
                tell(error)
                code = 1
        return code

    def one(self, server: dict[str, Any], parsed_args: argparse.Namespace) -> None:
        """One server, as far as was asked for."""
        now = server
        if not parsed_args.offload or server["vm_state"] != "shelved":
            self.client.call(self.method, server=server["id"])
            if not (parsed_args.wait or parsed_args.offload):
                return
            now = wait_for(self.client, server, self.shelved, parsed_args.timeout) or server
        if parsed_args.offload and now["vm_state"] == "shelved":
            self.client.call("server.shelve_offload", server=server["id"])
            if parsed_args.wait:
                wait_for(self.client, server, "shelved_offloaded", parsed_args.timeout)


class Unshelve(Verb):
    """Start shelved servers: where they are, or, offloaded, where there is room"""

    method, wanted, awaited = "server.unshelve", "active", "they are active"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """--host as openstackclient has it."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--host", metavar="HOST", help="Start offloaded ones on this host.")
        return parser

    def arguments(self, parsed_args: argparse.Namespace) -> dict[str, Any]:
        """Where to."""
        return {"host": parsed_args.host}
