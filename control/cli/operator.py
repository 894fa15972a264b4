"""Commands for operators: what is going on, what is wrong, and how to put it right."""

from __future__ import annotations

import argparse
import uuid
from typing import Any

from compute.errors import Refused
from control.cli.base import AGENT, Command, Lister, Report, ShowOne, shown, table, usage
from control.cli.client import Client
from control.cli.columns import Time

COLUMNS = (
    ("ID", "id"),
    ("Verb", "verb"),
    ("Guest", "guest"),
    ("State", "state"),
    ("Step", "step"),
    ("Done", "progress"),
    ("Started", "started_at"),
    ("Message", "message"),
)


def guest_id(client: Client, guest: str) -> str:
    """The id of a guest given by name; what no control plane knows is taken as it is."""
    try:
        uuid.UUID(guest)
    except ValueError:
        try:
            return client.call("server.show", server=guest)["id"]
        except Refused as error:
            if error.code not in ("server_not_found", "unknown_method"):
                raise
    return guest


class OpList(Lister):
    """List the operations of this host's agent"""

    answered_by = AGENT

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Those going on; --all adds what has ended."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--all", action="store_true", help="Ended ones too.")
        parser.add_argument("--guest", metavar="GUEST", help="Only those of this server.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Operations from the journal."""
        guest = parsed_args.guest and guest_id(self.client, parsed_args.guest)
        found = self.client.call("op.list", guest=guest, all=parsed_args.all)
        rows = [
            {**op, "progress": f"{op.get('steps_done', 0)}/{op.get('steps_total', 0)}"}
            for op in found
        ]
        return table(rows, COLUMNS, {"started_at": Time})


class OpShow(Report):
    """Show an operation with its steps"""

    answered_by = AGENT

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One operation."""
        parser = super().get_parser(prog_name)
        parser.add_argument("op", metavar="OP", help="ID of the operation.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """What the journal says."""
        return self.sections(self.client.call("op.show", op=parsed_args.op))


class OpAbort(Command):
    """Stop an operation at its next step border and undo it"""

    answered_by = AGENT

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One operation."""
        parser = super().get_parser(prog_name)
        parser.add_argument("op", metavar="OP", help="ID of the operation.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Ask for it."""
        op = self.client.call("op.abort", op=parsed_args.op)
        print(
            f"The {op['verb']} of {op['guest']} stops at its next step border and is undone. "
            f"Follow it with 'magnetar op show {op['id']}'.",
            file=self.app.stdout,
        )
        return 0


class OpResolve(ShowOne):
    """Close an operation that needs an operator, after looking at what is true"""

    answered_by = AGENT

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One operation, how it is to count, and why."""
        parser = super().get_parser(prog_name)
        parser.add_argument("op", metavar="OP", help="ID of the operation.")
        parser.add_argument(
            "--as",
            dest="as_",
            required=True,
            choices=["retry", "done", "undone"],
            help="Try it again, or write down how it ended.",
        )
        parser.add_argument("--reason", metavar="WHY", default="",
                            help="For the journal; needed for done and undone.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Write it down."""
        if parsed_args.as_ != "retry" and not parsed_args.reason.strip():
            raise usage(f"--as {parsed_args.as_} needs --reason WHY: nobody can see it later.")
        return shown(
            self.client.call(
                "op.resolve", op=parsed_args.op, as_=parsed_args.as_, reason=parsed_args.reason
            )
        )


class Explain(Report):
    """Explain what is going on with a server, and what happens next"""

    answered_by = AGENT

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One server."""
        parser = super().get_parser(prog_name)
        parser.add_argument("guest", metavar="GUEST", help="Name or ID of the server.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Operation, steps, facts, verdict and next act. A control plane alone asks the host."""
        try:
            found = self.client.call("explain", guest=parsed_args.guest)
        except Refused as error:
            if error.code != "unknown_method":
                raise
            found = self.client.call("server.explain", server=parsed_args.guest)
        return self.sections(found)


class Audit(Report):
    """Compare journal, hypervisor, disks and control plane; list what has no owner"""

    answered_by = AGENT

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Exit code 0 even with findings: that the audit was made is the success."""
        return self.sections(self.client.call("audit"))


class Doctor(Report):
    """Check that this host can run guests well"""

    answered_by = AGENT

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Each check with its finding and what to do about it."""
        return self.sections(self.client.call("doctor"))
