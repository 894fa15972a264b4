"""Commands that empty hosts: while they work, or when they are lost."""

from __future__ import annotations

import argparse
import time
from typing import Any

from compute.errors import Failed, Unknown
from control.cli.base import Command, Report
from control.cli.server import add_wait
from control.cli.wait import progress

POLL = 1.0  # seconds between two looks


class _Empty(Command):
    method = ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One host, and how fast."""
        parser = super().get_parser(prog_name)
        parser.add_argument("host", metavar="HOST")
        parser.add_argument("--max", type=int, metavar="N",
                            help="How many servers are on their way at once.")
        add_wait(parser, "no server is left that can be moved")
        return parser

    def arguments(self, parsed_args: argparse.Namespace) -> dict[str, Any]:
        """Further arguments of the call."""
        return {}

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Begin it, or go on with it."""
        drain = self.client.call(self.method, host=parsed_args.host, max=parsed_args.max,
                                 **self.arguments(parsed_args))
        if not parsed_args.wait:
            print(f"{drain['total']} servers are to leave {drain['host']}. Follow it with "
                  f"'magnetar host drain show {drain['host']}'.", file=self.app.stdout)
            return 0
        drain = self._wait(drain, parsed_args.timeout)
        if drain["status"] != "done":
            raise unfinished(drain)
        print(f"All {drain['moved']} servers left {drain['host']}.", file=self.app.stdout)
        return 0

    def _wait(self, drain: dict[str, Any], timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        with progress(drain["host"]) as bar:
            while drain["status"] == "running":
                bar.show(_going(drain), drain["moved"], drain["total"])
                if time.monotonic() > deadline:
                    raise Unknown(
                        f"{drain['host']} was not empty within {timeout:.0f} seconds.",
                        now=f"{drain['moved']} of {drain['total']} servers left it; it goes on.",
                        next=f"See 'magnetar host drain show {drain['host']}'.",
                        code="wait_timeout")
                time.sleep(POLL)
                drain = self.client.call("host.drain_show", host=drain["host"])
        return drain


def _going(drain: dict[str, Any]) -> str:
    moving = [f"{one['server']} to {one['dest_compute'] or '?'} ({one['status']})"
              for one in drain["moving"]]
    return ", ".join(moving) or "looking for hosts"


def unfinished(drain: dict[str, Any]) -> Failed:
    """The error for a host on which servers are left, with the reason of each."""
    left = "; ".join(f"{one['server']}: {one['reason'] or one['vm_state']}"
                     for one in drain["left"])
    return Failed(
        f"{len(drain['left'])} servers are still on {drain['host']}. {left}",
        now=f"{drain['moved']} of {drain['total']} left it; emptying it is {drain['status']}.",
        next="Mend what is said, and give the same command again.", code="drain_unfinished")


class Drain(_Empty):
    """Move all servers off a host, live where possible, else shut down; again goes on"""

    method = "host.drain"


class Evacuate(_Empty):
    """Start the servers of a lost host on other ones"""

    method = "host.evacuate"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """That the host is surely off."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--fenced", action="store_true",
            help="Confirm that the host is powered off or cut from network and storage; its "
            "servers could run twice otherwise. It holds until the host is heard of again.")
        return parser

    def arguments(self, parsed_args: argparse.Namespace) -> dict[str, Any]:
        """The confirmation."""
        return {"fenced": parsed_args.fenced}


class Show(Report):
    """Show how far a host is emptied: what moved, what is on its way, what is left and why"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One host."""
        parser = super().get_parser(prog_name)
        parser.add_argument("host", metavar="HOST")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """The newest drain or evacuation of the host."""
        return self.sections(self.client.call("host.drain_show", host=parsed_args.host))


class Stop(Command):
    """Begin no more moves off a host; those on their way go on, and it stays disabled"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One host."""
        parser = super().get_parser(prog_name)
        parser.add_argument("host", metavar="HOST")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Stop it."""
        self.client.call("host.drain_stop", host=parsed_args.host)
        return 0
