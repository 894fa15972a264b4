"""Commands about migrations that go on or have ended, and about one that might be made."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from control.cli import watch
from control.cli.base import Command, Lister, Report, ShowOne, shown, table, tell, usage
from control.cli.columns import Size
from control.cli.move import add_terms, terms

COLUMNS = (
    ("Id", "id"),
    ("Server", "server"),
    ("Type", "type"),
    ("Status", "status"),
    ("Source Compute", "source_compute"),
    ("Dest Compute", "dest_compute"),
    ("Created At", "created_at"),
    ("Updated At", "updated_at"),
    ("Asked For", "options"),
    ("Message", "message"),
)
TYPES = ("evacuation", "live-migration", "cold-migration", "resize")
KINDS = {f"{what}_{which}": Size for what in ("memory", "disk")
         for which in ("total", "processed", "remaining")}
RESULTS = {True: "ok", False: "no", None: "unknown"}


class _List(Lister):
    all: bool | None = None

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Which ones."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("--server", metavar="SERVER", help="Only those of this server (name or ID).")
        add("--host", metavar="HOST", help="Only those from or to this host.")
        add("--status", metavar="STATUS", help="Only those with this status.")
        add("--type", choices=TYPES, help="Only those of this type.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """The oldest first."""
        everything = True if self.all else parsed_args.all or None
        found = self.client.call(
            "migration.list", server=parsed_args.server, host=parsed_args.host,
            status=parsed_args.status, type=parsed_args.type, all=everything)
        return table([{**one, "options": watch.asked(one)} for one in found], COLUMNS)


class ServerList(_List):
    """List migrations of servers, ended ones too"""

    all = True


class List(_List):
    """List migrations that go on, queued ones and resizes that wait to be confirmed included"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """--all adds what has ended."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--all", action="store_true", help="Ended ones too.")
        return parser


def _add_one(parser: argparse.ArgumentParser, which: str) -> None:
    parser.add_argument("server", metavar="SERVER", help="Name or ID.")
    parser.add_argument("migration", metavar="MIGRATION", type=int, nargs="?",
                        help=f"Its id; default: {which}.")


class Show(ShowOne):
    """Show a migration of a server"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One server, and which of its migrations."""
        parser = super().get_parser(prog_name)
        _add_one(parser, "the newest one")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """The record, and what the host that works on it tells."""
        return shown(self.client.call("server.migration_progress", server=parsed_args.server,
                                      migration=parsed_args.migration), KINDS)


class _Live(Command):
    method = ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One server, and which of its migrations."""
        parser = super().get_parser(prog_name)
        _add_one(parser, "the one that goes on")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Ask for it."""
        self.client.call(self.method, server=parsed_args.server, migration=parsed_args.migration)
        return 0


class Set(Command):
    """Change a live migration while it goes on: its bandwidth, its longest pause"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One server, and what to change."""
        parser = super().get_parser(prog_name)
        parser.add_argument("guest", metavar="GUEST", help="Name or ID of the server.")
        add_terms(parser, strategy=False)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Ask for it, and say what is in force."""
        if not terms(parsed_args):
            raise usage("Name a --bandwidth or a --max-pause.")
        now = self.client.call("server.migration_set", server=parsed_args.guest,
                               **terms(parsed_args))
        print(f"{now['server']}: {watch.in_force(now)} from now on.",
              file=self.app.stdout)
        return 0


class Abort(_Live):
    """Stop a live migration, queued or running; the server stays where it runs"""

    method = "server.migration_abort"


class ForceComplete(_Live):
    """Let a live migration end soon: by post-copy where permitted, else by a longer pause"""

    method = "server.migration_force_complete"


class Watch(Command):
    """Follow migrations until they end: phase, remaining, dirty rate, bandwidth, time left"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One server or all, for people or for machines."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("guest", metavar="GUEST", nargs="?",
            help="Name or ID of a server; default: all migrations that go on.")
        add("-f", "--format", choices=("text", "json"), default="text",
            help="json: one line of JSON for each look.")
        add("--timeout", type=int, default=86400, metavar="SECONDS",
            help="Stop watching after this long; what goes on goes on.")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """0 when all ended well, 1 when one did not."""
        if parsed_args.guest:
            ids = [(parsed_args.guest, None)]
        else:
            found = self.client.call("migration.list")
            ids = [(m["server_id"], m["id"]) for m in found if not watch.over(m)]
            if not ids and parsed_args.format == "text":
                print("No server is being moved.", file=self.app.stdout)
        ended = self._follow(ids, parsed_args)
        for one in ended if parsed_args.format == "text" else ():
            if one["status"] in watch.GOOD:
                print(watch.outcome(one), file=self.app.stdout)
            else:
                tell(watch.failed(one))
        return 0 if all(one["status"] in watch.GOOD for one in ended) else 1

    def _follow(self, ids: list[tuple[str, int | None]],
                parsed_args: argparse.Namespace) -> list[dict[str, Any]]:
        """The migrations as they ended, looking at each in turn."""
        open_ = [watch.looks(self.client, server, number, parsed_args.timeout)
                 for server, number in ids]
        last: dict[int, dict[str, Any]] = {}
        with watch.screen() as screen:
            while open_:
                for one in list(open_):
                    now = next(one, None)
                    if now is None:
                        open_.remove(one)
                        continue
                    last[now["id"]] = now
                    if parsed_args.format == "json":
                        print(json.dumps({"time": time.time(), **watch.plain(now)}),
                              file=self.app.stdout, flush=True)
                    elif not watch.over(now):
                        screen.show(now)
        return list(last.values())


class Plan(Report):
    """Show what a live migration would do, and whether it could; nothing is changed"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """One server, and where to."""
        parser = super().get_parser(prog_name)
        parser.add_argument("guest", metavar="GUEST", help="Name or ID of the server.")
        parser.add_argument("host", metavar="HOST", nargs="?",
                            help="To this host; default: the one that would be chosen.")
        disks = parser.add_mutually_exclusive_group()
        disks.add_argument("--block-migration", dest="block", action="store_true", default=None,
                           help="Its disks are local and go along (default: find out).")
        disks.add_argument("--shared-migration", dest="block", action="store_false", default=None,
                           help="Its disks are on shared storage.")
        add_terms(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Any, Any]:
        """Checks, strategy, predicted time and pause. Exit code 0 also when it cannot be: that the
        plan was made is the success."""
        plan = self.client.call("server.plan_live_migrate", server=parsed_args.guest,
                                host=parsed_args.host, block_migration=parsed_args.block,
                                **terms(parsed_args))
        if parsed_args.formatter == "text":
            plan = {**plan, "checks": [_check(one) for one in plan.get("checks") or ()]}
            for name in ("dirty_rate", "bandwidth"):
                if plan.get(name) is not None:
                    rate = Size(plan[name]).human_readable()
                    plan[name] = f"{rate}/s" if plan[name] else "not known"
            if plan.get("max_pause") is not None:
                limit = plan.get("bandwidth_limit")
                plan["bandwidth_limit"] = f"{limit} MiB/s" if limit else "none"
                plan["max_pause"] = f"{plan['max_pause']} ms"
        return self.sections(plan)


def _check(check: dict[str, Any]) -> dict[str, Any]:
    """A check as the report shows it: ``[ok] cpu: …``, with what mends it only where it has to."""
    hidden = ("ok", "next") if check.get("ok") else ("ok",)
    rest = {key: value for key, value in check.items() if key not in hidden and value != ""}
    return {"result": RESULTS[check.get("ok")], **rest}
