"""Commands that give servers another size or another host."""

from __future__ import annotations

import argparse
from typing import Any

from control.cli.base import Command, usage
from control.cli.server import add_wait
from control.cli.watch import follow, outcome


class _Move(Command):
    """One server, its verb, and --wait."""

    method, awaited = "", "it is there"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One server."""
        parser = super().get_parser(prog_name)
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        add_wait(parser, self.awaited)
        return parser

    def request(self, parsed_args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
        """The method, and its arguments but the server."""
        return self.method, {}

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Ask for it, then wait for its end if told to."""
        server = self.client.call("server.show", server=parsed_args.server)
        method, args = self.request(parsed_args)
        self.client.call(method, server=server["id"], **args)
        if parsed_args.wait:
            print(outcome(follow(self.client, server, parsed_args.timeout)), file=self.app.stdout)
        return 0


class Resize(_Move):
    """Give a server another flavor; it then waits to be confirmed or reverted"""

    method, awaited = "server.resize", "it waits to be confirmed"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The new flavor."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--flavor", metavar="FLAVOR", required=True,
                            help="The new flavor (name or ID); disks cannot shrink.")
        return parser

    def request(self, parsed_args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
        """The flavor."""
        return self.method, {"flavor": parsed_args.flavor}


STRATEGIES = ("auto", "precopy", "auto-converge", "multifd", "postcopy")


def add_terms(parser: argparse.ArgumentParser, *, strategy: bool = True) -> None:
    """--strategy, --bandwidth and --max-pause of one live migration."""
    if strategy:
        parser.add_argument("--strategy", choices=STRATEGIES,
                            help="Live: how its memory goes over (default: as its host says).")
    parser.add_argument("--bandwidth", type=int, metavar="MIB_S",
                        help="Live: MiB/s that it may take, 0 for no limit.")
    parser.add_argument("--max-pause", type=int, metavar="MS",
                        help="Live: the longest pause of the server, in milliseconds.")


def terms(parsed_args: argparse.Namespace) -> dict[str, Any]:
    """What was given of them."""
    found = {name: getattr(parsed_args, name, None)
             for name in ("strategy", "bandwidth", "max_pause")}
    return {name: value for name, value in found.items() if value is not None}


class _Word(Command):
    method = ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One server."""
        parser = super().get_parser(prog_name)
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Say it."""
        self.client.call(self.method, server=parsed_args.server)
        return 0


class ResizeConfirm(_Word):
    """Keep a resized or migrated server as it is; its former disks are deleted"""

    method = "server.resize_confirm"


class ResizeRevert(_Word):
    """Bring a resized or migrated server back to its former size and host"""

    method = "server.resize_revert"


class Migrate(_Move):
    """Move a server to another host, shut down (then it waits to be confirmed) or while it runs"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Options as openstackclient names them."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("--live-migration", action="store_true", help="Move it while it runs.")
        add("--host", metavar="HOST", help="To this host, which is checked like any other.")
        disks = parser.add_mutually_exclusive_group()
        disks.add_argument("--block-migration", dest="block", action="store_true", default=None,
                           help="Live: its disks are local and go along (default: find out).")
        disks.add_argument("--shared-migration", dest="block", action="store_false", default=None,
                           help="Live: its disks are on shared storage.")
        add_terms(parser)
        return parser

    def request(self, parsed_args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
        """Live or not, and where to."""
        if not parsed_args.live_migration:
            if parsed_args.block is not None:
                raise usage("Which disks go along only matters with --live-migration.")
            if terms(parsed_args):
                raise usage("--strategy, --bandwidth and --max-pause are for --live-migration.")
            return "server.migrate", {"host": parsed_args.host}
        return "server.live_migrate", {"host": parsed_args.host,
                                       "block_migration": parsed_args.block,
                                       **terms(parsed_args)}


class Evacuate(_Move):
    """Start a server of a lost host on another one"""

    method, awaited = "server.evacuate", "it is started there"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """To which host, and that the lost one is surely off."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("--host", metavar="HOST", help="On this host, which is checked like any other.")
        add("--fenced", action="store_true",
            help="Confirm that the lost host is powered off or cut from network and storage. "
            "It holds until the host is heard of again.")
        return parser

    def request(self, parsed_args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
        """Where to, and the confirmation."""
        return self.method, {"host": parsed_args.host, "fenced": parsed_args.fenced}
