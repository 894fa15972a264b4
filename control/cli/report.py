"""Sections for people: how ``explain``, ``audit``, ``doctor`` and ``op show`` look by default."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from cliff.columns import FormattableColumn
from cliff.formatters import base

from control.cli.columns import plain_text

INDENT = "  "
STATEMENT = ("what", "found", "now", "next")  # keys whose values are sentences
MARKS = ("result", "kind", "rule", "status")  # keys that go before them in brackets
NAMES = ("check", "subject", "name")
MAX_CELL = 100  # characters; a list with longer values is shown as blocks, not as a table


class TextFormatter(base.SingleFormatter):
    """Plain properties first, then each list or mapping under a heading of its own."""

    def add_argument_group(self, parser: argparse.ArgumentParser) -> None:
        """There are no options."""

    def emit_one(
        self,
        column_names: Sequence[str],
        data: Sequence[Any],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        """Write the sections."""
        values = {
            name: value.human_readable() if isinstance(value, FormattableColumn) else value
            for name, value in zip(column_names, data, strict=True)
        }
        stdout.write("\n".join(sections(values)) + "\n")


def sections(values: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a report."""
    plain = {key: value for key, value in values.items() if not _nested(value)}
    known = {key: value for key, value in plain.items() if value is not None}
    yield from _properties(known)
    first = not known
    for name, value in values.items():
        if name in plain:
            continue
        if not first:
            yield ""
        first = False
        yield _title(name)
        yield from ((INDENT + line).rstrip() for line in _block(value))


def _block(value: Any) -> Iterator[str]:
    if not value:
        yield "none"
    elif isinstance(value, Mapping):
        if set(STATEMENT) & set(value):
            yield from _statement(value)
        else:
            yield from sections(value)
    elif not isinstance(value, list | tuple):
        yield from str(value).splitlines()
    elif not all(isinstance(one, Mapping) for one in value):
        yield from (f"- {plain_text(one)}" for one in value)
    elif any(set(STATEMENT) & set(one) for one in value):
        for one in value:
            yield from _statement(one)
    elif all(_is_row(one) for one in value):
        yield from _columns(value)
    else:
        for number, one in enumerate(value):
            if number:
                yield ""
            yield from sections(one)


def _statement(value: Mapping[str, Any]) -> Iterator[str]:
    """Sentences behind a mark: ``[warning] virtlockd: it does not run.``"""
    rest = {key: text for key, text in value.items() if key not in STATEMENT and text is not None}
    mark = next((rest.pop(key) for key in MARKS if key in rest), None)
    name = next((rest.pop(key) for key in NAMES if key in rest), None)
    head = (f"[{mark}] " if mark else "") + (f"{name}: " if name else "")
    sentences = [str(value[key]) for key in STATEMENT if value.get(key)]
    yield head + (sentences[0] if sentences else "")
    for sentence in sentences[1:]:
        yield from (INDENT * 2 + line for line in sentence.splitlines())
    if rest:
        yield INDENT * 2 + plain_text(rest)


def _properties(values: Mapping[str, Any]) -> Iterator[str]:
    titles = {key: _title(key) for key in values}
    width = max((len(title) for title in titles.values()), default=0)
    for key, value in values.items():
        lines = plain_text(value).splitlines() or [""]
        yield f"{titles[key]:<{width}}  {lines[0]}".rstrip()
        yield from (" " * (width + 2) + line for line in lines[1:])


def _columns(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[_title(key) for key in keys]]
    lines += [[_flat(row.get(key)) for key in keys] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(keys))]
    for line in lines:
        yield "  ".join(
            f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)
        ).rstrip()


def _is_row(value: Mapping[str, Any]) -> bool:
    cells = {key: _flat(one) for key, one in value.items()}
    last = next(reversed(cells), None)
    return all(
        (not _nested(value[key]) or _is_error(value[key]))
        and "\n" not in cell
        and (key == last or len(cell) <= MAX_CELL)
        for key, cell in cells.items()
    )


def _flat(value: Any) -> str:
    """A cell of a table; of an error only what happened."""
    return str(value["what"]) if _is_error(value) else plain_text(value)


def _is_error(value: Any) -> bool:
    return isinstance(value, Mapping) and "what" in value


def _nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _title(key: str) -> str:
    return key.replace("_", " ").capitalize() if key.islower() else key
