"""Commands about images."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
from collections.abc import Mapping
from typing import Any

from compute.errors import Failed
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


CACHED = (("Host", "host"), ("Image", "image"), ("State", "state"), ("Done", "done"),
          ("Of", "total"), ("Error", "error"))
POLL = 0.5  # seconds between two looks at how far it is
GOES_ON = ("queued", "fetching")


class Cache(Lister):
    """Let hosts fetch an image before a server needs it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Hosts, and one image."""
        parser = super().get_parser(prog_name)
        parser.add_argument("host", nargs="+", metavar="HOST", help="Name of a host.")
        parser.add_argument("image", metavar="IMAGE", help="Name or ID.")
        parser.add_argument("--wait", action="store_true",
                            help="Wait until all have it, and say on the way how far they are.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """How each host stands. An error if one could not fetch it."""
        rows = self.client.call("image.cache", hosts=parsed_args.host, images=[parsed_args.image])
        said: dict[str, str] = {}
        while parsed_args.wait and any(row["state"] in GOES_ON for row in rows):
            time.sleep(POLL)
            keys = {(row["host"], row["image_id"]) for row in rows}
            rows = [row for row in self.client.call("image.cache_list")
                    if (row["host"], row["image_id"]) in keys]
            for row in rows:
                tell(row, said)
        bad = [row for row in rows if row["state"] == "error"]
        if bad:
            raise Failed(
                f"Image {bad[0]['image']} is not cached on "
                f"{', '.join(row['host'] for row in bad)}: {bad[0]['error']}",
                now="Servers can be created there all the same; the image is fetched then.",
                next="Mend the cause and ask again.", code="not_cached")
        return table(rows, CACHED, {"done": Size, "total": Size})


def tell(row: Mapping[str, Any], said: dict[str, str]) -> None:
    """Say on a terminal how far a host is, when that has changed."""
    share = f" {100 * row['done'] // row['total']} %" if row["total"] else ""
    text = f"{row['host']}: {row['state']}{share}"
    if said.get(row["host"]) != text and sys.stderr.isatty():
        said[row["host"]] = text
        print(text, file=sys.stderr)


class CacheList(Lister):
    """List the images that hosts fetch or were told to fetch"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Since the control plane was started."""
        return table(self.client.call("image.cache_list"), CACHED, {"done": Size, "total": Size})


class Create(ShowOne):
    """Upload an image"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Options as openstackclient names them."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("name", metavar="NAME")
        add("--file", required=True, metavar="FILE", help="The image; - for standard input.")
        add("--disk-format", default="qcow2", metavar="FORMAT",
            help="qcow2 (default), raw, or iso, which only rescues.")
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
