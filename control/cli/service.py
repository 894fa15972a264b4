"""Commands about Magnetar itself: up, control and version."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from compute.errors import MagnetarError
from control.cli.base import Command


def version() -> str:
    """The version of the installed package."""
    from importlib import metadata

    return metadata.version("magnetar")


class _Run(Command):
    word = ""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Everything behind the word is for the process that it becomes."""
        parser = super().get_parser(prog_name)
        parser.add_argument("words", nargs=argparse.REMAINDER, metavar="OPTION")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Begin again as ``magnetar WORD …``: threads are chosen before anything is imported."""
        words = [self.word, *parsed_args.words]
        if self.app.options.config_file:
            words += ["--config-file", self.app.options.config_file]
        os.execv(sys.executable, [sys.executable, "-m", "control.cli.main", *words])


class Up(_Run):
    """Run the embedded control plane and the agent of this host in one process"""

    word = "up"
    _epilog: Any = "All options are those of the configuration; 'magnetar up --help' lists them."


class Control(_Run):
    """Run the embedded control plane alone, for agents that are on other hosts"""

    word = "control"
    _epilog: Any = ("All options are those of the configuration; 'magnetar control --help' lists "
                    "them.")


class Version(Command):
    """Show the versions of this command and of the agent"""

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Print one line for each; the agent need not run."""
        print(f"magnetar {version()}")
        try:
            health = self.client.health()
        except MagnetarError as error:
            print(f"agent: not reached ({error.what})")
        else:
            known = (health.get(key) for key in ("version", "host", "driver"))
            about = ", ".join(str(value) for value in known if value)
            print(f"agent: {health['status']}" + (f" ({about})" if about else ""))
        return 0
