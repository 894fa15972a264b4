"""Commands about volumes."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from cliff.columns import FormattableColumn

from compute.errors import Failed, Unknown
from control.cli.base import (
    Command,
    Lister,
    ShowOne,
    add_property,
    file_text,
    pairs,
    shown,
    table,
    usage,
)
from control.cli.columns import GiB
from control.cli.named import DeleteNamed, ShowNamed
from control.cli.server import add_wait

MAKING = ("creating", "downloading")
CONNECTION_LIMIT = 64 << 10
POLL = 0.2  # seconds between two looks whether a volume is made


class Users(FormattableColumn[Any]):
    """Which servers have a volume: ``web on /dev/vdb`` for people."""

    def human_readable(self) -> str:
        return ", ".join(f"{one['server'] or one['server_id']} on {one['device'] or '?'}"
                         for one in self._value or ())


COLUMNS = (("ID", "id"), ("Name", "name"), ("Status", "status"), ("Size", "size"),
           ("Attached to", "attachments"))
KINDS = {"size": GiB, "attachments": Users}


class Create(ShowOne):
    """Create a volume: empty, from an image or another volume; or register one from elsewhere"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Options as openstackclient names them, and what it has not."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("name", metavar="NAME")
        add("--size", type=int, metavar="GIB", help="Its size; needed unless it has a source.")
        source = parser.add_mutually_exclusive_group()
        source.add_argument("--image", metavar="IMAGE", help="Make it from this image.")
        source.add_argument("--source", metavar="VOLUME", help="Make it a copy of this volume.")
        source.add_argument(
            "--connection-info", metavar="FILE",
            help="Register a volume that exists elsewhere: a file of JSON with driver_volume_type "
            "and data, as a driver of Cinder gives them.")
        add("--disk-format", choices=["raw", "qcow2"], help="Format of its file.")
        add("--description", metavar="TEXT")
        add("--multi-attach", action="store_true", help="Several servers may have it at once.")
        add_bootable(parser)
        add_property(parser, "Property; may be repeated.")
        add("--request-id", metavar="ID", help="Repeating a create with the same ID is harmless.")
        add_wait(parser, "it is available")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Make it; what is copied is still being copied when this returns, without --wait."""
        volume = self.client.call(
            "volume.create", name=parsed_args.name, size=parsed_args.size,
            image=parsed_args.image, source=parsed_args.source,
            disk_format=parsed_args.disk_format, description=parsed_args.description,
            multiattach=parsed_args.multi_attach or None, bootable=parsed_args.bootable,
            properties=pairs(parsed_args.property),
            connection_info=parsed_args.connection_info and read(parsed_args.connection_info),
            request_id=parsed_args.request_id,
        )
        if parsed_args.wait:
            volume = self.wait(volume, parsed_args.timeout)
        return shown(volume, KINDS)

    def wait(self, volume: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Look until it is made, or is not."""
        deadline = time.monotonic() + timeout
        while volume["status"] in MAKING:
            if time.monotonic() > deadline:
                raise Unknown(f"Volume {volume['name']} was not available within {timeout:.0f} "
                              f"seconds.", now=f"It is {volume['status']}; that goes on.",
                              next=f"See it with 'magnetar volume show {volume['id']}'.",
                              code="wait_timeout")
            time.sleep(POLL)
            volume = self.client.call("volume.show", volume=volume["id"])
        if volume["status"] == "error":
            raise Failed(volume["message"] or f"Volume {volume['name']} could not be made.",
                         now="The volume is there, in error.",
                         next=f"Delete it: 'magnetar volume delete {volume['id']}'.",
                         code="wait_failed")
        return volume


def add_bootable(parser: argparse.ArgumentParser) -> None:
    """Add --bootable and --non-bootable."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--bootable", action="store_true", default=None,
                     help="Servers can boot from it.")
    how.add_argument("--non-bootable", action="store_false", dest="bootable",
                     help="Servers cannot boot from it.")


def read(path: str) -> Any:
    """The JSON object in a file. Raises Refused(code='usage')."""
    try:
        return json.loads(file_text(path, CONNECTION_LIMIT))
    except ValueError as error:
        raise usage(f"The file {path} holds no JSON: {error}.") from error


class List(Lister):
    """List volumes"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """All volumes."""
        return table(self.client.call("volume.list"), COLUMNS, KINDS)


class Show(ShowNamed):
    """Show a volume"""

    noun, kinds = "volume", KINDS


class Set(Command):
    """Change a volume; a larger size is seen by its servers at once"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Options as openstackclient names them."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("--size", type=int, metavar="GIB", help="Extend it to this size.")
        add("--name", metavar="NAME", help="A new name.")
        add("--description", metavar="TEXT", help="A new description.")
        add_property(parser, "Property; may be repeated.")
        add_bootable(parser)
        add("--state", metavar="STATE", choices=["available", "in-use", "error"],
            help="An operator's word for what is true, when the record is wrong.")
        add("--detached", action="store_true",
            help="An operator's word that servers which are gone do not use it any more.")
        add("volume", metavar="VOLUME", help="Name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Change what is named."""
        self.client.call(
            "volume.set", volume=parsed_args.volume, size=parsed_args.size,
            name=parsed_args.name, description=parsed_args.description,
            properties=pairs(parsed_args.property) or None, bootable=parsed_args.bootable,
            state=parsed_args.state, detached=parsed_args.detached or None)
        return 0


class Delete(DeleteNamed):
    """Delete volumes that no server has, and what is on them"""

    noun = "volume"
