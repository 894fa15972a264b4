"""The command line's application: global options, and the table of commands.

Commands are found in the literal table below and imported when they are run.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from typing import Any

from cliff import app, commandmanager

COMMANDS = {
    "server create": "server:Create",
    "server list": "server:List",
    "server show": "server:Show",
    "server event list": "server:Events",
    "server delete": "server:Delete",
    "server restore": "server:Restore",
    "server start": "server:Start",
    "server stop": "server:Stop",
    "server reboot": "server:Reboot",
    "server pause": "server:Pause",
    "server unpause": "server:Unpause",
    "server suspend": "server:Suspend",
    "server resume": "server:Resume",
    "server dump create": "tending:DumpCreate",
    "server diagnostics show": "tending:Diagnostics",
    "server usage list": "tending:UsageList",
    "server rescue": "tending:Rescue",
    "server set": "tending:Set",
    "server unrescue": "tending:Unrescue",
    "server image create": "snapshot:ImageCreate",
    "server backup create": "snapshot:BackupCreate",
    "server rebuild": "snapshot:Rebuild",
    "server shelve": "snapshot:Shelve",
    "server unshelve": "snapshot:Unshelve",
    "server port list": "interface:Ports",
    "server add network": "interface:AddNetwork",
    "server add port": "interface:AddPort",
    "server add fixed ip": "interface:AddFixedIP",
    "server remove network": "interface:RemoveNetwork",
    "server remove port": "interface:RemovePort",
    "server add volume": "attaching:AddVolume",
    "server remove volume": "attaching:RemoveVolume",
    "server volume list": "attaching:ServerVolumes",
    "server volume update": "attaching:UpdateVolume",
    "server volume swap": "attaching:SwapVolume",
    "server resize": "move:Resize",
    "server resize confirm": "move:ResizeConfirm",
    "server resize revert": "move:ResizeRevert",
    "server migrate": "move:Migrate",
    "server migrate confirm": "move:ResizeConfirm",
    "server migrate revert": "move:ResizeRevert",
    "server evacuate": "move:Evacuate",
    "server migration list": "migration:ServerList",
    "server migration show": "migration:Show",
    "server migration abort": "migration:Abort",
    "server migration force complete": "migration:ForceComplete",
    "server migration confirm": "move:ResizeConfirm",
    "server migration revert": "move:ResizeRevert",
    "migration list": "migration:List",
    "migration set": "migration:Set",
    "migration watch": "migration:Watch",
    "plan live-migrate": "migration:Plan",
    "console log show": "server:ConsoleLog",
    "console url show": "console:UrlShow",
    "console attach": "console:Attach",
    "image create": "image:Create",
    "image list": "image:List",
    "image show": "image:Show",
    "image delete": "image:Delete",
    "image cache": "image:Cache",
    "image cache list": "image:CacheList",
    "flavor create": "flavor:Create",
    "flavor list": "flavor:List",
    "flavor show": "flavor:Show",
    "flavor delete": "flavor:Delete",
    "network create": "network:Create",
    "network list": "network:List",
    "network show": "network:Show",
    "network delete": "network:Delete",
    "port create": "port:Create",
    "port list": "port:List",
    "port show": "port:Show",
    "port delete": "port:Delete",
    "volume create": "volume:Create",
    "volume list": "volume:List",
    "volume show": "volume:Show",
    "volume set": "volume:Set",
    "volume delete": "volume:Delete",
    "keypair create": "keypair:Create",
    "keypair list": "keypair:List",
    "keypair show": "keypair:Show",
    "keypair delete": "keypair:Delete",
    "server group create": "group:Create",
    "server group list": "group:List",
    "server group show": "group:Show",
    "server group delete": "group:Delete",
    "host list": "host:List",
    "host show": "host:Show",
    "host enable": "host:Enable",
    "host disable": "host:Disable",
    "host set": "host:Set",
    "host drain": "drain:Drain",
    "host drain show": "drain:Show",
    "host drain stop": "drain:Stop",
    "host evacuate": "drain:Evacuate",
    "op list": "operator:OpList",
    "op show": "operator:OpShow",
    "op abort": "operator:OpAbort",
    "op resolve": "operator:OpResolve",
    "explain": "operator:Explain",
    "audit": "operator:Audit",
    "doctor": "operator:Doctor",
    "up": "service:Up",
    "control": "service:Control",
    "version": "service:Version",
    "help": "help:Help",
}


class _Entry:
    """What cliff asks of an entry point."""

    def __init__(self, name: str, location: str):
        self.name, self.value = name, f"control.cli.{location}"

    def load(self) -> Any:
        module, _, attribute = self.value.partition(":")
        return getattr(importlib.import_module(module), attribute)


class Commands(commandmanager.CommandManager):
    """The commands of the table, in its order, loaded when they are run."""

    def _load_commands(self) -> None:
        for name, location in COMMANDS.items():
            self.commands[name] = _Entry(name, location)  # type: ignore[assignment]

    def add_command(self, name: str, command_class: Any) -> None:
        """Add a command, unless the table has it: cliff's own help reads every package."""
        if name not in COMMANDS:
            super().add_command(name, command_class)


class Magnetar(app.App):
    """The application: global options, and the table of commands."""

    NAME = "magnetar"
    LOG = logging.getLogger("magnetar.cli")

    def __init__(self) -> None:
        super().__init__(
            description="Run guests on this host, and find out what happened to them.",
            version="",
            command_manager=Commands("magnetar"),
            deferred_help=True,
        )

    def build_option_parser(
        self, description: Any, version: Any, argparse_kwargs: Any = None
    ) -> argparse.ArgumentParser:
        """The global options; they are understood before and after the command."""
        # A prefix of a global option could be an option of a command: no abbreviations.
        parser = argparse.ArgumentParser(
            prog=self.NAME, description=description, add_help=False, allow_abbrev=False
        )
        add = parser.add_argument
        add("--socket", metavar="PATH", help="The agent's control socket (MAGNETAR_SOCKET).")
        add(
            "--config-file",
            metavar="FILE",
            help="The agent's configuration, which says where its socket is (MAGNETAR_CONFIG).",
        )
        add("--version", action=_Version, nargs=0, help="Show the version and exit.")
        add("--debug", action="store_true", help="Show tracebacks of unforeseen errors.")
        add("-h", "--help", action="store_true", dest="deferred_help", help="Show help and exit.")
        return parser

    def configure_logging(self) -> None:
        """cliff reports unforeseen errors through the logger; they go to stderr as they are."""
        self.LOG.handlers[:] = [logging.StreamHandler(self.stderr)]
        self.LOG.propagate = False

    def initialize_app(self, argv: list[str]) -> None:
        """Without a command there is help, not an interactive mode."""
        if not argv:
            argv.append("help")
            self.interactive_mode = self.options.deferred_help = False

    def run_subcommand(self, argv: list[str]) -> int:
        """Run a command of the table; 2 and near names when there is none."""
        try:
            self.command_manager.find_command(argv)
        except ValueError:
            print(f"magnetar has no command '{' '.join(argv)}'.", file=sys.stderr)
            near = self.get_fuzzy_matches(argv[0])
            print("Perhaps one of these is meant:", *near, sep="\n  ", file=sys.stderr)
            return 2
        return super().run_subcommand(argv)


class _Version(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        from control.cli.service import version

        print(f"magnetar {version()}")
        parser.exit()
