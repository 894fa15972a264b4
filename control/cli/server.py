"""Commands about servers."""

from __future__ import annotations

import argparse
import base64
from typing import Any

from compute.errors import MagnetarError
from control.cli.attaching import add_devices, check_boot
from control.cli.base import (
    Command,
    Lister,
    ShowOne,
    add_property,
    file_bytes,
    file_text,
    pairs,
    shown,
    table,
    tell,
    usage,
)
from control.cli.columns import Addresses, Fault, GiB, MiB
from control.cli.wait import wait_for

EVENTS = (
    ("Action", "action"),
    ("Request ID", "request_id"),
    ("Event", "event"),
    ("Host", "host"),
    ("Start Time", "start_time"),
    ("Finish Time", "finish_time"),
    ("Result", "result"),
    ("Message", "message"),
)
COLUMNS = (
    ("ID", "id"),
    ("Name", "name"),
    ("Status", "status"),
    ("Networks", "addresses"),
    ("Image", "image"),
    ("Flavor", "flavor"),
)
LONG = (
    *COLUMNS[:3],
    ("Task State", "task_state"),
    ("Power State", "power_state"),
    *COLUMNS[3:],
    ("Host", "host"),
    ("Availability Zone", "availability_zone"),
    ("Created", "created_at"),
)
KINDS = {"ram": MiB, "disk": GiB, "addresses": Addresses, "fault": Fault}
USER_DATA_LIMIT = 49151  # bytes; Nova's limit of 65535 is for the text in base64
PUBLIC_KEY_LIMIT = 16 << 10
WAIT = 900


def add_wait(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --wait and --timeout."""
    parser.add_argument("--wait", action="store_true", help=f"Wait until {what}.")
    parser.add_argument(
        "--timeout",
        type=int,
        default=WAIT,
        metavar="SECONDS",
        help=f"With --wait: stop waiting after this long (default {WAIT}).",
    )


class Create(ShowOne):
    """Create a server"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Options as openstackclient names them, and --hint, --request-id."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("name", metavar="NAME")
        add("--image", metavar="IMAGE", help="Boot from this image (name or ID).")
        add_devices(parser)
        add("--flavor", required=True, metavar="FLAVOR", help="Size of the server (name or ID).")
        add(
            "--network",
            dest="networks",
            action="append",
            default=[],
            metavar="NETWORK",
            help="Give it a NIC on this network (name or ID); may be repeated.",
        )
        add("--port", dest="networks", action="append", type=lambda port: {"port": port},
            metavar="PORT", help="Give it the NIC of this port (name or ID); may be repeated.")
        add("--nic", choices=["none"], help="none: no NIC at all.")
        add("--key-name", metavar="KEY", help="Give it this key pair.")
        add("--public-key", metavar="FILE", help="Give it the public key in this file.")
        add("--user-data", metavar="FILE", help="Give it this file as user data.")
        add("--config-drive", action="store_true", help="Put metadata on a config drive.")
        add_property(parser, "Metadata for the server; may be repeated.")
        add("--availability-zone", metavar="ZONE", help="Where it may run.")
        add_property(parser, "Hint for the scheduler (group=…); may be repeated.", "--hint")
        add("--request-id", metavar="ID", help="Repeating a create with the same ID is harmless.")
        add_wait(parser, "it is active")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Ask for the server; it is being built when this returns, unless --wait is given."""
        if parsed_args.nic and parsed_args.networks:
            raise usage("--nic none excludes --network and --port.")
        if parsed_args.public_key and parsed_args.key_name:
            raise usage("--key-name and --public-key exclude each other.")
        check_boot(parsed_args)
        public_key, user_data = parsed_args.public_key, parsed_args.user_data
        server = self.client.call(
            "server.create",
            name=parsed_args.name,
            image=parsed_args.image,
            volume=parsed_args.volume,
            boot_from_volume=parsed_args.boot_from_volume,
            block_devices=parsed_args.block_devices or None,
            flavor=parsed_args.flavor,
            networks=[] if parsed_args.nic else parsed_args.networks or None,
            key_name=parsed_args.key_name,
            public_key=public_key and file_text(public_key, PUBLIC_KEY_LIMIT).strip(),
            user_data=user_data
            and base64.b64encode(file_bytes(user_data, USER_DATA_LIMIT)).decode(),
            config_drive=parsed_args.config_drive or None,
            properties=pairs(parsed_args.property),
            availability_zone=parsed_args.availability_zone,
            hints=pairs(parsed_args.hint),
            request_id=parsed_args.request_id,
        )
        if parsed_args.wait:
            server = wait_for(self.client, server, "active", parsed_args.timeout)
        return shown(server, KINDS)


class List(Lister):
    """List servers"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """--long adds columns, the others leave out rows."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--long", action="store_true", help="Show more columns.")
        parser.add_argument("--host", metavar="HOST", help="Only those on this host.")
        parser.add_argument("--name", metavar="NAME", help="Only those of this name.")
        parser.add_argument("--deleted", action="store_true", help="Only deleted ones.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """All servers, the oldest first."""
        found = self.client.call(
            "server.list",
            host=parsed_args.host,
            name=parsed_args.name,
            deleted=parsed_args.deleted,
        )
        return table(found, LONG if parsed_args.long else COLUMNS, KINDS)


class Show(ShowOne):
    """Show a server"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One server."""
        parser = super().get_parser(prog_name)
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        parser.add_argument("--diagnostics", action="store_true",
                            help="Show what it has used instead.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """All that is known about it."""
        if parsed_args.diagnostics:
            return shown(self.client.call("server.diagnostics", server=parsed_args.server))
        return shown(self.client.call("server.show", server=parsed_args.server), KINDS)


class Verb(Command):
    """A verb on one or more servers; a failure of one does not keep the others from it."""

    method, wanted, awaited = "", "", ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One or more servers."""
        parser = super().get_parser(prog_name)
        parser.add_argument("server", nargs="+", metavar="SERVER", help="Name or ID.")
        add_wait(parser, self.awaited)
        return parser

    def arguments(self, parsed_args: argparse.Namespace) -> dict[str, Any]:
        """Further arguments of the call."""
        return {}

    def expected(self, answer: Any) -> str:
        """The vm_state that means success, after what the call answered."""
        return self.wanted

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Ask for all of them, then wait for all of them if told to."""
        code, begun = 0, []
        for name in parsed_args.server:
            try:
                # Looked up first: once deleted, a server can no longer be found by its name.
                server = self.client.call("server.show", server=name)
                answer = self.client.call(self.method, server=server["id"],
                                          **self.arguments(parsed_args))
                begun.append((server, self.expected(answer)))
            except MagnetarError as error:
                tell(error)
                code = 1
        for server, wanted in begun if parsed_args.wait else ():
            try:
                wait_for(self.client, server, wanted, parsed_args.timeout)
            except MagnetarError as error:
                tell(error)
                code = 1
        return code


class Delete(Verb):
    """Delete servers"""

    method, wanted, awaited = "server.delete", "deleted", "they are gone, or can be restored"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """--force leaves nothing to restore."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--force", action="store_true",
                            help="For good, also where deleted servers could be restored.")
        return parser

    def arguments(self, parsed_args: argparse.Namespace) -> dict[str, Any]:
        """For good or not."""
        return {"force": True} if parsed_args.force else {}

    def expected(self, answer: Any) -> str:
        """Where deleted servers can be restored, they are not gone."""
        vm_state, task = ((answer or {}).get(key) for key in ("vm_state", "task_state"))
        soft = task == "soft-deleting" or (vm_state, task) == ("soft-delete", None)
        return "soft-delete" if soft else self.wanted


class Restore(Verb):
    """Restore servers that were deleted and not reclaimed yet"""

    method, wanted, awaited = "server.restore", "active", "they are active"


class Start(Verb):
    """Start servers"""

    method, wanted, awaited = "server.start", "active", "they are active"


class Stop(Verb):
    """Stop servers: a clean shutdown, by force when that takes too long"""

    method, wanted, awaited = "server.stop", "stopped", "they are stopped"


class Reboot(Verb):
    """Reboot servers"""

    method, wanted, awaited = "server.reboot", "active", "they are active again"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """--soft asks the guest, --hard makes the domain anew."""
        parser = super().get_parser(prog_name)
        how = parser.add_mutually_exclusive_group()
        how.add_argument(
            "--soft",
            dest="hard",
            action="store_false",
            help="Ask the guest; hard if it does not react (default).",
        )
        how.add_argument(
            "--hard", action="store_true", help="Make the domain anew, as after a power cut."
        )
        parser.set_defaults(hard=False)
        return parser

    def arguments(self, parsed_args: argparse.Namespace) -> dict[str, Any]:
        """Soft or hard."""
        return {"hard": parsed_args.hard}


class Pause(Verb):
    """Pause servers: their CPUs stop, their memory stays"""

    method, wanted, awaited = "server.pause", "paused", "they are paused"


class Unpause(Verb):
    """Let paused servers run again"""

    method, wanted, awaited = "server.unpause", "active", "they are active"


class Suspend(Verb):
    """Suspend servers: their memory is written to disk, and they are off"""

    method, wanted, awaited = "server.suspend", "suspended", "they are suspended"


class Resume(Verb):
    """Let suspended servers go on from where they were"""

    method, wanted, awaited = "server.resume", "active", "they are active"


class Events(Lister):
    """List what was asked of a server, and what its hosts did for it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One server."""
        parser = super().get_parser(prog_name)
        parser.add_argument("server", metavar="SERVER", help="Name, or ID even when deleted.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """One row for each event, and for each action that no host has begun."""
        rows = []
        for action in self.client.call("server.actions", server=parsed_args.server):
            rows += [{**action, **event} for event in action["events"]] or [action]
        return table(rows, EVENTS)


class ConsoleLog(Command):
    """Show the serial console's output"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One server, all lines or the last ones."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--lines", type=int, metavar="N", help="Only the last N lines.")
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Print it as it is."""
        text = self.client.call("console.log", server=parsed_args.server, lines=parsed_args.lines)
        self.app.stdout.write(text if text.endswith("\n") or not text else text + "\n")
        return 0
