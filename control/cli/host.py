"""Commands about hosts."""

from __future__ import annotations

import argparse
from typing import Any

from control.cli.base import Command, Lister, table
from control.cli.columns import GiB, MiB
from control.cli.named import ShowNamed

COLUMNS = (
    ("Host", "host"),
    ("State", "state"),
    ("Status", "status"),
    ("VCPUs", "vcpus"),
    ("VCPUs Used", "vcpus_used"),
    ("RAM", "memory_mb"),
    ("RAM Used", "memory_mb_used"),
    ("Disk", "local_gb"),
    ("Disk Used", "local_gb_used"),
    ("Servers", "servers"),
)
KINDS = {
    "memory_mb": MiB,
    "memory_mb_used": MiB,
    "memory_mb_limit": MiB,
    "local_gb": GiB,
    "local_gb_used": GiB,
    "local_gb_limit": GiB,
}


class List(Lister):
    """List hosts"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """All hosts, whether they are up, and what of them is used."""
        return table(self.client.call("host.list"), COLUMNS, KINDS)


class Show(ShowNamed):
    """Show a host"""

    noun, kinds = "host", KINDS


class _OnHost(Command):
    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One host."""
        parser = super().get_parser(prog_name)
        parser.add_argument("host", metavar="HOST")
        return parser


class Enable(_OnHost):
    """Let a host take new servers again"""

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Enable it."""
        self.client.call("host.enable", host=parsed_args.host)
        return 0


class Disable(_OnHost):
    """Keep a host from taking new servers; those on it keep running"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One host, and why."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--reason", metavar="TEXT", help="Shown to whoever asks why.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Disable it."""
        self.client.call("host.disable", host=parsed_args.host, reason=parsed_args.reason)
        return 0


class Set(_OnHost):
    """Put a host into an availability zone"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One host and its zone."""
        parser = super().get_parser(prog_name)
        zone = "The zone; an empty text for the default one."
        parser.add_argument("--availability-zone", metavar="ZONE", required=True, help=zone)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Set its zone; where servers are is not changed."""
        self.client.call(
            "host.set_zone",
            host=parsed_args.host,
            availability_zone=parsed_args.availability_zone or None,
        )
        return 0
