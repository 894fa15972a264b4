"""What all commands share: errors told in three sentences, output formats, the connection.

Plug-ins of cliff are not looked for: scanning the installed packages would cost more time than
all the rest of a command.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from cliff import command, lister, show

from compute.errors import MagnetarError, Refused, Unknown
from control.cli.client import Client, socket_path
from control.cli.columns import Plain

AGENT, CONTROL_PLANE = "agent", "control plane"  # who answers a command
USAGE = 2  # exit code for what argparse would have refused

_COMMON = {
    "json": "cliff.formatters.json_format:JSONFormatter",
    "table": "cliff.formatters.table:TableFormatter",
    "value": "cliff.formatters.value:ValueFormatter",
    "yaml": "cliff.formatters.yaml_format:YAMLFormatter",
}
LIST_FORMATS = {**_COMMON, "csv": "cliff.formatters.commaseparated:CSVLister"}
SHOW_FORMATS = {**_COMMON, "shell": "cliff.formatters.shell:ShellFormatter"}
REPORT_FORMATS = {**SHOW_FORMATS, "text": "control.cli.report:TextFormatter"}


class _Formatter:
    def __init__(self, name: str, location: str):
        module, _, attribute = location.partition(":")
        self.name = name
        self.obj = getattr(importlib.import_module(module), attribute)()


class _Formatters:
    """The part of stevedore's ExtensionManager that cliff uses, over a literal table."""

    def __init__(self, table: dict[str, str]):
        self._known = {name: _Formatter(name, location) for name, location in table.items()}

    def names(self) -> list[str]:
        return list(self._known)

    def __iter__(self) -> Iterator[_Formatter]:
        return iter(self._known.values())

    def __getitem__(self, name: str) -> _Formatter:
        return self._known[name]


class _Common:
    """Mixed into cliff's three base classes."""

    app: Any
    formats: dict[str, str] = {}
    answered_by = CONTROL_PLANE
    _client: Client | None = None

    def _load_hooks(self) -> None:
        vars(self)["_hooks"] = []

    def _load_formatter_plugins(self) -> Any:
        return _Formatters(self.formats)

    def get_epilog(self) -> str:
        """Text below the help; cliff would look through all installed packages for it."""
        return getattr(self, "_epilog", None) or ""

    @property
    def client(self) -> Client:
        """The connection to the agent, made at first use."""
        if self._client is None:
            options = self.app.options
            self._client = Client(socket_path(options.socket, options.config_file))
        return self._client

    def run(self, parsed_args: argparse.Namespace) -> int:
        """The command's exit code: 0, 1 when refused or failed, 2 for wrong usage."""
        try:
            return super().run(parsed_args)  # type: ignore[misc]
        except MagnetarError as error:
            tell(_misplaced(self.answered_by) if error.code == "unknown_method" else error)
            return USAGE if error.code == "usage" else 1
        except (LookupError, TypeError, AttributeError) as error:
            if self.app.options.debug:
                raise
            tell(_not_understood(error))
            return 1
        finally:
            if self._client is not None:
                self._client.close()

    def _generate_columns_and_selector(self, parsed_args: Any, column_names: Any) -> Any:
        try:
            return super()._generate_columns_and_selector(  # type: ignore[misc]
                parsed_args, column_names
            )
        except ValueError as error:
            raise usage(str(error).rstrip(".") + ".") from error


class Command(_Common, command.Command):
    """A command without output of its own form."""


class Lister(_Common, lister.Lister):
    """A command that shows a table; ``COLUMNS`` maps each heading to a key or a function."""

    formats = LIST_FORMATS


class ShowOne(_Common, show.ShowOne):
    """A command that shows the properties of one thing."""

    formats = SHOW_FORMATS


class Report(ShowOne):
    """A command whose answer is read by a person in sections, and by a machine as data."""

    formats = REPORT_FORMATS

    @property
    def formatter_default(self) -> str:
        return "text"

    @staticmethod
    def sections(answer: Any) -> tuple[tuple, tuple]:
        """What take_action returns: the answer's parts in their order."""
        parts = answer if isinstance(answer, dict) else {"findings": answer}
        return tuple(parts), tuple(parts.values())


def shown(data: dict[str, Any], kinds: dict[str, Any] | None = None) -> tuple[tuple, tuple]:
    """A dict as cliff's two columns; ``kinds`` names the column class of some keys."""
    kinds = kinds or {}
    keys = sorted(data)
    return tuple(keys), tuple(_cell(data[key], kinds.get(key)) for key in keys)


def table(
    rows: Sequence[dict[str, Any]], columns: Sequence[tuple], kinds: dict[str, Any] | None = None
) -> tuple[tuple, list[tuple]]:
    """Rows of dicts as cliff's table; ``columns`` are pairs of heading and key."""
    kinds = kinds or {}
    return (
        tuple(heading for heading, _ in columns),
        [tuple(_cell(row.get(key), kinds.get(key)) for _, key in columns) for row in rows],
    )


def _cell(value: Any, kind: Any) -> Any:
    if kind is not None:
        return kind(value)
    return value if isinstance(value, str | int | float) else Plain(value)


def usage(what: str) -> Refused:
    """The error for words on the command line that make no sense together: exit code 2."""
    return Refused(what, now="Nothing was done.", next="See the command's --help.", code="usage")


def _misplaced(answered_by: str) -> Refused:
    """The error for a command that was sent to a socket where nobody knows it."""
    if answered_by == AGENT:
        what = "Only the agent of a host can answer this, and at this socket there is none."
        next_ = "Run it on the host in question, or name its agent's socket with --socket PATH."
    else:
        what = "Only a control plane can answer this, and at this socket there is none."
        next_ = "Run it where 'magnetar control' or 'magnetar up' runs, or name its socket with " \
                "--socket PATH."
    return Refused(what, now="Nothing was done.", next=next_, code="unknown_method")


def _not_understood(error: Exception) -> Unknown:
    return Unknown(
        f"The agent's answer is not understood: {type(error).__name__}: {error}.",
        now="What was asked for may have been done.",
        next="Compare the versions with 'magnetar version'; --debug shows where it went wrong.",
        code="bad_answer",
    )


def tell(error: MagnetarError) -> None:
    """Print an error on stderr: what happened, what is true now, what to do next."""
    lines = [line for line in (error.what, error.now, error.next) if line]
    print("\n".join(lines), file=sys.stderr)


def key_value(text: str) -> tuple[str, str]:
    """argparse type for ``KEY=VALUE``."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    return key.strip(), value


def add_property(parser: argparse.ArgumentParser, help: str, option: str = "--property") -> None:
    """Add a repeatable KEY=VALUE option; its values are read with :func:`pairs`."""
    parser.add_argument(
        option, metavar="KEY=VALUE", type=key_value, action="append", default=[], help=help
    )


def pairs(values: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The dict of repeated KEY=VALUE options.

    :raises Refused: ``usage`` when a key is given twice with different values.
    """
    result: dict[str, str] = {}
    for key, value in values:
        if result.setdefault(key, value) != value:
            raise usage(f"{key} is given twice: {result[key]!r} and {value!r}.")
    return result


def file_bytes(path: str, limit: int) -> bytes:
    """The contents of a small file named on the command line, at most ``limit`` bytes.

    :raises Refused: ``usage`` when it cannot be read or is too large.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise usage(f"The file {path} cannot be read: {error.strerror}.") from error
    if len(data) > limit:
        raise usage(f"The file {path} is larger than the {limit} bytes that are allowed.")
    return data


def file_text(path: str, limit: int) -> str:
    """The text of a small file; see :func:`file_bytes`.

    :raises Refused: ``usage`` also when it is no UTF-8 text.
    """
    try:
        return file_bytes(path, limit).decode()
    except UnicodeDecodeError as error:
        raise usage(f"The file {path} is no text in UTF-8.") from error
