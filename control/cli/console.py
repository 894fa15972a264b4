"""Commands about consoles: their addresses, and a terminal at one."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Any

from compute.errors import MagnetarError, Refused
from control.cli.base import AGENT, Command, ShowOne, shown

ESCAPE = b"\x1d"  # Ctrl-]
PIECE = 4096


class UrlShow(ShowOne):
    """Show the address at which a server's screen or serial console can be opened"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """A server, and a kind of console."""
        parser = super().get_parser(prog_name)
        parser.set_defaults(kind="novnc")
        for option, kind, told in (
                ("--novnc", "novnc", "Its screen over VNC, in a browser (default)."),
                ("--spice", "spice-html5", "Its screen over SPICE, in a browser."),
                ("--serial", "serial", "Its serial console, over a websocket.")):
            parser.add_argument(option, dest="kind", action="store_const", const=kind, help=told)
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """It can be opened for [consoleauth] token_ttl seconds."""
        return shown(self.client.call("console.url", server=parsed_args.server,
                                      kind=parsed_args.kind))


class Attach(Command):
    """Attach this terminal to a server's serial console; Ctrl-] ends it"""

    answered_by = AGENT

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """A server of this host."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--force", action="store_true",
                            help="End the session of whoever is there now.")
        parser.add_argument("server", metavar="SERVER", help="Name or ID.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Carry what is typed and what the server writes, until one of both ends it."""
        guest = parsed_args.server
        try:
            guest = self.client.call("server.show", server=guest)["id"]
        except MagnetarError as error:
            if error.code not in ("unknown_method", "server_not_found"):
                raise
        with contextlib.closing(self.client.console(guest, parsed_args.force)) as console:
            if sys.stdin.isatty():
                print(f"At the console of {parsed_args.server}. Ctrl-] ends it.\r",
                      file=sys.stderr)
            with raw_terminal():
                ended_here = carry(console, sys.stdin.fileno(), sys.stdout.fileno())
        if not ended_here:
            raise Refused(f"The console of {parsed_args.server} was closed at its host.",
                          now="The server was stopped, or its host's agent or libvirtd was.",
                          next=f"See 'magnetar explain {guest}'.", code="console_closed")
        return 0


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Every key goes to the server, Ctrl-C too; nothing changes where there is no terminal."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def carry(console: socket.socket, keys: int, screen: int) -> bool:
    """Carry bytes both ways. Whether it ended here: by Ctrl-], or at the end of a file of keys."""
    console.settimeout(None)
    while True:
        ready, _, _ = select.select([console, keys], [], [])
        if console in ready:
            data = console.recv(PIECE)
            if not data:
                return False
            os.write(screen, data)
        if keys in ready:
            typed = os.read(keys, PIECE)
            before, escape, _ = typed.partition(ESCAPE)
            if before:
                console.sendall(before)
            if escape or not typed:
                return True
