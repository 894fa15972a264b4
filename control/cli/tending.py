"""Commands that tend to servers: crash dumps, rescue, passwords, diagnostics."""

from __future__ import annotations

import argparse
from typing import Any

from control.cli.base import Command, Lister, ShowOne, shown, table, usage
from control.cli.server import Verb, add_wait
from control.cli.wait import wait_for


class DumpCreate(Verb):
    """Interrupt servers, so that their kernels write a crash dump if they are set up to"""

    method = "server.dump"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One or more servers; there is nothing to wait for."""
        parser = Command.get_parser(self, prog_name)
        parser.add_argument("server", nargs="+", metavar="SERVER", help="Name or ID.")
        parser.set_defaults(wait=False)
        return parser


USAGE = (("Name", "name"), ("Host", "host"), ("CPU Time (s)", "cpu"), ("Memory (MiB)", "memory"),
         ("Resident (MiB)", "resident"), ("Disk (MiB)", "disk"), ("Read (MiB)", "read"),
         ("Written (MiB)", "written"), ("Received (MiB)", "received"), ("Sent (MiB)", "sent"))


class UsageList(Lister):
    """List what running servers use"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """All of them, or those of one host."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--host", metavar="HOST", help="Only servers of this host.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """What was read, written, received and sent counts from a server's start."""
        return table([in_units(row) for row in self.client.call(
            "server.usage_list", host=parsed_args.host)], USAGE)


def in_units(row: dict[str, Any]) -> dict[str, Any]:
    """One server's figures in seconds and MiB."""
    sizes = {"disk": "disk_bytes", "read": "read_bytes", "written": "write_bytes",
             "received": "rx_bytes", "sent": "tx_bytes"}
    return {**row, "cpu": round(row["cpu_ns"] / 1e9, 1),
            **{name: row[name] >> 10 for name in ("memory", "resident")},
            **{name: round(row[key] / (1 << 20), 1) for name, key in sizes.items()}}


class Rescue(Command):
    """Rescue a server: boot another system beside its disks, so that they can be mended"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Options as openstackclient names them."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("server", metavar="SERVER", help="Name or ID.")
        add("--image", metavar="IMAGE",
            help="The rescue system (name or ID); else the image that the server was made from.")
        add("--password", metavar="PASSWORD", help="For the rescue system; else one is made up.")
        add_wait(parser, "it is rescued")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Ask for it; a password that was made up is printed."""
        server = self.client.call("server.rescue", server=parsed_args.server,
                                  image=parsed_args.image, password=parsed_args.password)
        if parsed_args.password is None:
            self.app.stdout.write(f"The rescue system's password is {server['admin_pass']}\n")
        if parsed_args.wait:
            wait_for(self.client, server, "rescued", parsed_args.timeout)
        return 0


class Unrescue(Verb):
    """Let rescued servers boot their own systems again"""

    method, wanted, awaited = "server.unrescue", "active", "they are active"


class Set(Command):
    """Set the password of a server's administrator, through the agent in it"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """As openstackclient names it."""
        parser = super().get_parser(prog_name)
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        parser.add_argument("--password", metavar="PASSWORD", help="The new password.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """When it returns, the password is set."""
        if not parsed_args.password:
            raise usage("--password is needed.")
        self.client.call("server.set_password", server=parsed_args.server,
                         password=parsed_args.password)
        return 0


class Diagnostics(ShowOne):
    """Show what a running server has used since it was started"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One server."""
        parser = super().get_parser(prog_name)
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Memory in MiB, time of CPUs in nanoseconds."""
        return shown(self.client.call("server.diagnostics", server=parsed_args.server))
