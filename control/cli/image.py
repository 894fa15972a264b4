"""Commands about images."""

from __future__ import annotations

import argparse
import os
import stat
from typing import Any

from control.cli.base import Lister, ShowOne, add_property, pairs, shown, table, usage
from control.cli.columns import Digest, GiB, MiB, Size
from control.cli.named import DeleteNamed, ShowNamed
from control.cli.wait import upload_bar

COLUMNS = (
    ("ID", "id"),
    ("Name", "name"),
    ("Disk Format", "disk_format"),
    ("Size", "size"),
    ("Status", "status"),
)
KINDS = {"size": Size, "hash_value": Digest, "min_disk": GiB, "min_ram": MiB}


class Create(ShowOne):
    """Upload an image"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Options as openstackclient names them."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("name", metavar="NAME")
        add("--file", required=True, metavar="FILE", help="The image; - for standard input.")
        add("--disk-format", default="qcow2", metavar="FORMAT", help="qcow2 (default) or raw.")
        add("--min-disk", type=int, default=0, metavar="GIB", help="Smallest root disk.")
        add("--min-ram", type=int, default=0, metavar="MIB", help="Smallest memory.")
        add("--id", metavar="ID", help="Its ID; a new one if not given.")
        add_property(parser, "Property such as hw_disk_bus=virtio; may be repeated.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Send the file, with a bar on a terminal."""
        with self._open(parsed_args.file) as file:
            status = os.fstat(file.fileno())
            size = status.st_size if stat.S_ISREG(status.st_mode) else None
            with upload_bar(parsed_args.name, size) as progress:
                image = self.client.upload(
                    "image.create",
                    file,
                    size,
                    progress,
                    name=parsed_args.name,
                    disk_format=parsed_args.disk_format,
                    properties=pairs(parsed_args.property),
                    min_disk=parsed_args.min_disk,
                    min_ram=parsed_args.min_ram,
                    id=parsed_args.id,
                )
        return shown(image, KINDS)

    def _open(self, path: str) -> Any:
        try:
            return os.fdopen(os.dup(0), "rb") if path == "-" else open(path, "rb")
        except OSError as error:
            raise usage(f"The file {path} cannot be read: {error.strerror}.") from error


class List(Lister):
    """List images"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """All images."""
        return table(self.client.call("image.list"), COLUMNS, KINDS)


class Show(ShowNamed):
    """Show an image"""

    noun, kinds = "image", KINDS


class Delete(DeleteNamed):
    """Delete images; servers that were made from them keep running"""

    noun = "image"
