"""Commands about servers' NICs."""

from __future__ import annotations

import argparse
import time
from typing import Any

from compute.errors import Failed, Unknown
from control.cli.base import Command, Lister, ShowOne, shown, table
from control.cli.server import add_wait

PORTS = (("ID", "id"), ("Name", "name"), ("Network", "network"), ("MAC Address", "mac"),
         ("IP Address", "address"), ("Tag", "tag"))
POLL = 0.2  # seconds between two looks whether a NIC is out


class Ports(Lister):
    """List a server's ports"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One server."""
        parser = super().get_parser(prog_name)
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """In the order of its NICs."""
        return table(self.client.call("server.ports", server=parsed_args.server), PORTS)


class AddNetwork(ShowOne):
    """Give a server one more NIC, while it runs or is off"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """A server, a network, and how the server knows the NIC."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--tag", metavar="TAG", help="Tells the server which NIC it is.")
        self.address(parser)
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        parser.add_argument("network", metavar="NETWORK", help="Name or ID.")
        return parser

    def address(self, parser: argparse.ArgumentParser) -> None:
        """Any free address."""
        parser.set_defaults(fixed_ip_address=None)

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Returns when the NIC is in."""
        wish = {"fixed_ip": parsed_args.fixed_ip_address, "tag": parsed_args.tag}
        return shown(self.client.call(
            "server.add_network", server=parsed_args.server, network=parsed_args.network,
            **{name: value for name, value in wish.items() if value is not None}))


class AddFixedIP(AddNetwork):
    """Give a server one more NIC with an address of a network"""

    def address(self, parser: argparse.ArgumentParser) -> None:
        """This one, or any."""
        parser.add_argument("--fixed-ip-address", metavar="ADDRESS",
                            help="This address of the network.")


class AddPort(ShowOne):
    """Give a server the NIC of a port that is there, while it runs or is off"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """A server, a port, and how the server knows the NIC."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--tag", metavar="TAG", help="Tells the server which NIC it is.")
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        parser.add_argument("port", metavar="PORT", help="Name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Returns when the NIC is in."""
        tag = {"tag": parsed_args.tag} if parsed_args.tag else {}
        return shown(self.client.call("server.add_port", server=parsed_args.server,
                                      port=parsed_args.port, **tag))


class RemovePort(Command):
    """Take a NIC out of a server, by its port; a port that was made by itself stays"""

    method, thing, words = "server.remove_port", "port", "Its name or ID, or its MAC or IP address."

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """A server, and what leaves it."""
        parser = super().get_parser(prog_name)
        add_wait(parser, "the NIC is out of the server")
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        parser.add_argument(self.thing, metavar=self.thing.upper(), help=self.words)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Ask for it; with --wait until the guest let go of it, or did not."""
        answer = self.client.call(self.method, server=parsed_args.server,
                                  **{self.thing: getattr(parsed_args, self.thing)})
        for port in answer if isinstance(answer, list) else [answer]:
            if parsed_args.wait:
                self.wait(parsed_args.server, port, parsed_args.timeout)
        return 0

    def wait(self, server: str, port: dict[str, Any], timeout: float) -> None:
        """Look at the server's events until those of this request have ended."""
        deadline = time.monotonic() + timeout
        while True:
            events = [event for action in self.client.call("server.actions", server=server)
                      if action["request_id"] == port["request_id"] for event in action["events"]]
            ended = next((event for event in events if event["result"]), None)
            if ended is not None and ended["result"] == "Success":
                return
            if ended is not None:
                raise Failed(ended["details"] or "The NIC could not be taken out.",
                             code="wait_failed")
            if time.monotonic() > deadline:
                raise Unknown(f"Port {port['id']} was not out of the server within {timeout:.0f} "
                              "seconds.", now="What was asked for goes on.",
                              next=f"See why with 'magnetar explain {server}'.",
                              code="wait_timeout")
            time.sleep(POLL)


class RemoveNetwork(RemovePort):
    """Take a server's NIC on a network out of it"""

    method, thing, words = "server.remove_network", "network", "Name or ID."
