"""Commands that messages tell people to run exist, with the options that the messages name."""

from __future__ import annotations

import argparse
import ast
import pathlib
import re
import shlex
from collections.abc import Iterator
from unittest import mock

import testtools

from control.cli.app import COMMANDS, Magnetar

TOP = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("compute", "virt", "control", "db", "tools/toolbox")
VALUE = "0"  # stands for what a message fills in; a number is a name as well
PREFIXES = {words[0] for words in map(str.split, COMMANDS)}
QUOTED = re.compile(r"'magnetar ([^'\n]+)'")
BARE = re.compile(r"(?:^|: |, then: |MAGNETAR )magnetar ([a-z][^'\n.;,]*)")


def texts(tree: ast.AST) -> Iterator[str]:
    """Strings, and formatted ones with VALUE where something is filled in."""
    within = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
              for part in node.values}
    for node in ast.walk(tree):
        if id(node) in within:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE
                          for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def hints() -> dict[str, str]:
    """Command lines that messages name, and a file that each is in."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((TOP / folder).rglob("*.py")):
            for text in texts(ast.parse(path.read_text())):
                for line in (*QUOTED.findall(text), *BARE.findall(text)):
                    if line.split()[0] in PREFIXES and "--help" not in line:
                        found[line.replace("%s", VALUE).strip()] = str(path.relative_to(TOP))
    return found


class HintsTest(testtools.TestCase):
    def parses(self, line: str) -> str | None:
        """Why a command line is none; arguments that were left out are no reason."""
        words = shlex.split(line)
        app = Magnetar()
        name = next((" ".join(words[:n]) for n in range(len(words), 0, -1)
                     if " ".join(words[:n]) in COMMANDS), None)
        if name is None:
            return "no such command"
        command = app.command_manager.commands[name].load()(app, None, cmd_name=name)
        parser = command.get_parser(f"magnetar {name}")
        rest = words[len(name.split()):]
        if not rest:
            return None  # the command alone: its help says the rest
        told: list[str] = []

        def error(self: argparse.ArgumentParser, message: str) -> None:
            told.append(message)
            raise SystemExit(2)

        with mock.patch.object(argparse.ArgumentParser, "error", error):
            try:
                parser.parse_args(rest)
            except SystemExit:
                return told[0] if told else None
        return None

    def test_every_command_that_a_message_names_can_be_given(self):
        found = hints()
        self.assertGreater(len(found), 30)
        wrong = {line: (why, place) for line, place in found.items()
                 if (why := self.parses(line.replace("done|undone", "").replace("|", "")))}
        self.assertEqual({}, wrong)

    def test_a_wrong_one_is_seen(self):
        self.assertIn("unrecognized", self.parses("server migration list web"))
        self.assertIn("no such", self.parses("server explode"))
        self.assertIn("required", self.parses("op resolve 0 --reason x"))
