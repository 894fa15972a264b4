"""Commands about ports."""

from __future__ import annotations

import argparse
from typing import Any

from control.cli.base import Lister, ShowOne, shown, table, usage
from control.cli.named import DeleteNamed, ShowNamed

COLUMNS = (("ID", "id"), ("Name", "name"), ("Network", "network"), ("MAC Address", "mac"),
           ("IP Address", "address"), ("Server", "server"), ("Status", "status"))


class Create(ShowOne):
    """Create a port, for a server to come; it stays when the server goes"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Options as openstackclient names them, and shorter ones."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("name", metavar="NAME")
        add("--network", required=True, metavar="NETWORK", help="Of this network (name or ID).")
        add("--fixed-ip", metavar="[ip-address=]ADDRESS",
            help="This address of the network; any free one without it.")
        add("--mac-address", "--mac", dest="mac", metavar="MAC", help="This MAC address.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Create it."""
        fixed_ip = parsed_args.fixed_ip and address(parsed_args.fixed_ip)
        wish = {"fixed_ip": fixed_ip, "mac": parsed_args.mac}
        return shown(self.client.call(
            "port.create", name=parsed_args.name, network=parsed_args.network,
            **{name: value for name, value in wish.items() if value is not None}))


def address(text: str) -> str:
    """The address in ``ip-address=A`` or ``A``. Raises Refused(code='usage')."""
    key, equals, value = text.rpartition("=")
    if equals and key != "ip-address":
        raise usage(f"--fixed-ip {text}: a network has one subnet; give ip-address=ADDRESS alone.")
    return value


class List(Lister):
    """List ports, also those that servers got from a network"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Which ones."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--network", metavar="NETWORK", help="Only those on this network.")
        parser.add_argument("--server", metavar="SERVER", help="Only those of this server.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """The oldest first."""
        wish = {"network": parsed_args.network, "server": parsed_args.server}
        return table(self.client.call(
            "port.list", **{name: value for name, value in wish.items() if value}), COLUMNS)


class Show(ShowNamed):
    """Show a port"""

    noun = "port"


class Delete(DeleteNamed):
    """Delete ports that no server has"""

    noun = "port"
