"""Commands about networks."""

from __future__ import annotations

import argparse
from typing import Any

from control.cli.base import Lister, ShowOne, shown, table, usage
from control.cli.named import DeleteNamed, ShowNamed

COLUMNS = (
    ("ID", "id"),
    ("Name", "name"),
    ("Kind", "kind"),
    ("Source", "source"),
    ("Subnet", "subnet"),
    ("Status", "status"),
    ("Ports", "ports"),
)


class Create(ShowOne):
    """Create a network: a libvirt network of its own, or on a bridge that is there"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """--subnet makes a libvirt network; --bridge uses what the host has."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("name", metavar="NAME")
        add("--subnet", metavar="CIDR", help="Its addresses, such as 192.168.50.0/24.")
        add(
            "--nat",
            action="store_true",
            help="Servers reach the outside through NAT; so they do unless --bridge is given.",
        )
        add("--bridge", metavar="BRIDGE", help="Use this bridge, which the hosts have already.")
        add("--ovs", action="store_true", help="The bridge is one of Open vSwitch.")
        add("--gateway", metavar="IP", help="Gateway; the first address without --bridge.")
        add("--dns", metavar="IP", action="append", help="Name server; may be repeated.")
        add("--mtu", type=int, metavar="BYTES", help="Largest packet.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Create it."""
        if not parsed_args.subnet:
            raise usage("A network needs --subnet CIDR, from which its servers get addresses; "
                        "--bridge BRIDGE puts them on a bridge that is there.")
        if parsed_args.nat and parsed_args.bridge:
            raise usage("--nat is for networks of their own; a bridge is as its host made it.")
        if parsed_args.ovs and not parsed_args.bridge:
            raise usage("--ovs says what kind of bridge it is: --bridge BRIDGE names it.")
        network = self.client.call(
            "network.create",
            name=parsed_args.name,
            subnet=parsed_args.subnet,
            bridge=parsed_args.bridge,
            nat=parsed_args.nat or None,
            gateway=parsed_args.gateway,
            dns=parsed_args.dns,
            mtu=parsed_args.mtu,
            **({"ovs": True} if parsed_args.ovs else {}),
        )
        return shown(network)


class List(Lister):
    """List networks"""

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """All networks."""
        return table(self.client.call("network.list"), COLUMNS)


class Show(ShowNamed):
    """Show a network"""

    noun = "network"


class Delete(DeleteNamed):
    """Delete networks that no server uses"""

    noun = "network"
