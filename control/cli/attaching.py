"""Commands about servers' volumes."""

from __future__ import annotations

import argparse
import time
from typing import Any

from compute.errors import Failed, Unknown
from control.cli.base import Command, Lister, ShowOne, key_value, shown, table, usage
from control.cli.columns import GiB

COLUMNS = (("Volume ID", "volume_id"), ("Device", "device"), ("Server ID", "server_id"),
           ("Tag", "tag"), ("Size", "size"), ("Delete On Termination?", "delete_on_termination"),
           ("Attachment ID", "attachment_id"), ("BDM UUID", "bdm_uuid"))
KINDS = {"size": GiB}
NUMBERS = ("boot_index", "volume_size")
POLL = 0.2  # seconds between two looks whether a request has ended
WAIT = 900


class Asked:
    """What is asked for by a request id, and can be waited for."""

    client: Any

    def add_wait(self, parser: argparse.ArgumentParser, what: str) -> None:
        """--wait and --timeout."""
        parser.add_argument("--wait", action="store_true", help=f"Wait until {what}.")
        parser.add_argument("--timeout", type=int, default=WAIT, metavar="SECONDS",
                            help=f"With --wait: stop waiting after this long (default {WAIT}).")

    def wait(self, server: str, request_id: str, timeout: float) -> None:
        """Look at the server's events until those of this request have ended."""
        deadline = time.monotonic() + timeout
        while True:
            events = [event for action in self.client.call("server.actions", server=server)
                      if action["request_id"] == request_id for event in action["events"]]
            ended = next((event for event in events if event["result"]), None)
            if ended is not None and ended["result"] == "Success":
                return
            if ended is not None:
                raise Failed(ended["details"] or "It did not work.", code="wait_failed")
            if time.monotonic() > deadline:
                raise Unknown(f"It was not done within {timeout:.0f} seconds.",
                              now="What was asked for goes on.",
                              next=f"See why with 'magnetar explain {server}'.",
                              code="wait_timeout")
            time.sleep(POLL)


class ServerVolumes(Lister):
    """List a server's volumes"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One server."""
        parser = super().get_parser(prog_name)
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """In the order in which they came."""
        return table(self.client.call("server.volumes", server=parsed_args.server), COLUMNS, KINDS)


class AddVolume(Asked, ShowOne):
    """Attach a volume to a server, while it runs or is off"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """A server, a volume, and how the server knows it."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("--device", metavar="DEVICE", help="Name in the server, such as /dev/vdb; a wish.")
        add("--tag", metavar="TAG", help="Tells the server which disk it is.")
        add_termination(parser, "--enable-delete-on-termination",
                        "--disable-delete-on-termination")
        self.add_wait(parser, "the server has it")
        add("server", metavar="SERVER", help="Name or ID.")
        add("volume", metavar="VOLUME", help="Name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Returns when the server's host knows of it, with --wait when it is attached."""
        wish = {"device": parsed_args.device, "tag": parsed_args.tag,
                "delete_on_termination": parsed_args.delete_on_termination}
        made = self.client.call(
            "server.add_volume", server=parsed_args.server, volume=parsed_args.volume,
            **{name: value for name, value in wish.items() if value is not None})
        if parsed_args.wait:
            self.wait(made["server_id"], made["request_id"], parsed_args.timeout)
        return shown(made, KINDS)


class RemoveVolume(Asked, Command):
    """Take a volume out of a server"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """A server, and a volume of it."""
        parser = super().get_parser(prog_name)
        self.add_wait(parser, "the volume is out of the server")
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        parser.add_argument("volume", metavar="VOLUME", help="Name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Ask for it; with --wait until the guest let go of it, or did not."""
        asked = self.client.call("server.remove_volume", server=parsed_args.server,
                                 volume=parsed_args.volume)
        if parsed_args.wait:
            self.wait(asked["server_id"], asked["request_id"], parsed_args.timeout)
        return 0


class UpdateVolume(Command):
    """Say whether a volume is deleted with its server"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """A server, a volume of it, and which of both."""
        parser = super().get_parser(prog_name)
        add_termination(parser, "--delete-on-termination", "--preserve-on-termination", True)
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        parser.add_argument("volume", metavar="VOLUME", help="Name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Change it."""
        self.client.call("server.update_volume", server=parsed_args.server,
                         volume=parsed_args.volume,
                         delete_on_termination=parsed_args.delete_on_termination)
        return 0


class SwapVolume(Asked, Command):
    """Copy a volume of a running server to another one, which takes its place"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """A server, the volume that it has, and the other one."""
        parser = super().get_parser(prog_name)
        self.add_wait(parser, "the server works with the new volume")
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        parser.add_argument("old", metavar="VOLUME", help="The server's volume.")
        parser.add_argument("new", metavar="NEW_VOLUME", help="What takes its place.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Ask for it."""
        asked = self.client.call("server.swap_volume", server=parsed_args.server,
                                 old=parsed_args.old, new=parsed_args.new)
        if parsed_args.wait:
            self.wait(asked["server_id"], asked["request_id"], parsed_args.timeout)
        return 0


def add_termination(parser: argparse.ArgumentParser, yes: str, no: str,
                    required: bool = False) -> None:
    """Add the two options for whether a volume goes with its server."""
    how = parser.add_mutually_exclusive_group(required=required)
    how.add_argument(yes, action="store_true", default=None, dest="delete_on_termination",
                     help="It is deleted with the server.")
    how.add_argument(no, action="store_false", dest="delete_on_termination",
                     help="It stays when the server is deleted.")


# -- what 'server create' boots from -------------------------------------------------------------


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Add --volume, --boot-from-volume and --block-device."""
    add = parser.add_argument
    add("--volume", metavar="VOLUME", help="Boot from this volume (name or ID).")
    add("--boot-from-volume", type=int, metavar="GIB",
        help="Boot from a new volume of this size, made from the image.")
    add("--block-device", type=block_device, action="append", default=[], dest="block_devices",
        metavar="KEY=VALUE[,…]",
        help="A further volume; may be repeated. Keys: uuid, source_type (volume, image, blank), "
        "volume_size, boot_index, delete_on_termination, tag, device_name, disk_bus.")


def check_boot(parsed_args: argparse.Namespace) -> None:
    """Whether it is said what to boot from. Raises Refused(code='usage')."""
    if not (parsed_args.image or parsed_args.volume or parsed_args.block_devices):
        raise usage("A server needs --image, --volume, or a --block-device with boot_index=0.")
    if parsed_args.image and parsed_args.volume:
        raise usage("--image and --volume exclude each other.")
    if parsed_args.boot_from_volume and not parsed_args.image:
        raise usage("--boot-from-volume needs the --image that the volume is made from.")


def block_device(text: str) -> dict[str, Any]:
    """argparse type for ``uuid=…,source_type=volume,boot_index=1``."""
    device: dict[str, Any] = dict(key_value(part) for part in text.split(","))
    for name in NUMBERS:
        if name in device:
            try:
                device[name] = int(device[name])
            except ValueError as error:
                raise argparse.ArgumentTypeError(f"{name} is a whole number") from error
    if "delete_on_termination" in device:
        device["delete_on_termination"] = \
            str(device["delete_on_termination"]).lower() in ("true", "1", "yes")
    device.setdefault("source_type", "volume" if "uuid" in device else "blank")
    return device
