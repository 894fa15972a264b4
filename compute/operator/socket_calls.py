"""What a client of the control socket sends: the body of a request, and a method with arguments.

Everything here refuses before anything is called.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from compute.errors import Failed, Refused

Method = Callable[..., Any]

STREAM = "stream"  # the parameter that takes the body of an upload
MAX_LINE = 1024  # bytes in a chunk's head or a trailer line
PIECE = 256 << 10
NOTHING = "Nothing was done."


class Body:
    """The body of a request as a stream of bytes, by Content-Length or in chunks.

    ``length`` is the announced number of bytes, None when it comes in chunks. A client that goes
    away in the middle is an error, never an end.
    """

    def __init__(self, file: Any, length: int | None):
        self._file, self.length = file, length
        self._left = 0 if length is None else length  # of the body, or of the current chunk
        self._ended = length == 0
        self._broken = False
        self._taken = 0

    @classmethod
    def of(cls, file: Any, headers: Any) -> Body:
        """The body that the headers announce.

        :raises Refused: ``bad_request`` when they contradict each other or make no sense.
        """
        lengths = headers.get_all("Content-Length", [])
        coding = headers.get_all("Transfer-Encoding", [])
        if coding:
            if lengths or [word.strip().lower() for word in coding] != ["chunked"]:
                _refuse("The headers announce the body in a way that is not understood.")
            return cls(file, None)
        if len(lengths) > 1 or (lengths and not (lengths[0].isascii() and lengths[0].isdigit())):
            _refuse("Content-Length has to be one whole number of bytes.")
        return cls(file, int(lengths[0][:18]) if lengths else 0)

    def read(self, size: int | None = -1) -> bytes:
        """Up to ``size`` bytes, the rest if negative; ``b""`` at the end.

        :raises Failed: ``upload_cut`` when the client stops before the end.
        """
        pieces: list[bytes] = []
        wanted = -1 if size is None else size
        while not self._ended and wanted != 0:
            if self._left == 0:
                self._next_chunk()
                continue
            piece = self._take(min(self._left, PIECE if wanted < 0 else wanted))
            pieces.append(piece)
            if wanted > 0:
                wanted -= len(piece)
        return b"".join(pieces)

    def read_all(self, limit: int) -> bytes:
        """The whole body of a call, refused when larger than ``limit`` bytes."""
        data = b"" if (self.length or 0) > limit else self.read(limit + 1)
        if len(data) > limit or (self.length or 0) > limit:
            _refuse(f"The body of a call may have {limit} bytes at most.", code="bad_size")
        return data

    def drain(self, limit: int) -> bool:
        """Read away what the method left, if it is little. True when the body is at its end."""
        if self._broken or (self.length or 0) - self._taken > limit:
            return False
        try:
            while not self._ended and limit > 0:
                limit -= len(self.read(min(limit, PIECE)))
        except (Failed, Refused):
            return False
        return self._ended

    def _take(self, size: int) -> bytes:
        try:
            piece = self._file.read(size)
        except OSError as error:
            self._cut(error)
        if len(piece) < size:
            self._cut(None)
        self._left -= size
        self._taken += size
        if self.length is not None:
            self._ended = self._left == 0
        elif self._left == 0:
            self._line()  # the end of the line that closes a chunk
        return piece

    def _next_chunk(self) -> None:
        head = self._line().split(b";")[0].strip()
        if not head or len(head) > 15 or head.strip(b"0123456789abcdefABCDEF"):
            self._broken = True
            _refuse("A chunk of the body has no proper length.")
        self._left = int(head, 16)
        if self._left == 0:
            while self._line():
                continue
            self._ended = True

    def _line(self) -> bytes:
        try:
            line = self._file.readline(MAX_LINE + 1)
        except OSError as error:
            self._cut(error)
        if not line.endswith(b"\n"):
            self._cut(None)
        return line.strip()

    def _cut(self, cause: OSError | None) -> NoReturn:
        self._broken = True
        of = "" if self.length is None else f" of {self.length}"
        raise Failed(
            f"The client stopped sending after {self._taken}{of} bytes.",
            now="The request was not carried out.",
            next="Send it again.",
            code="upload_cut",
        ) from cause


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object from bytes; ``where`` begins the sentence when it is none.

    :raises Refused: ``bad_json``.
    """
    try:
        value = json.loads(data, parse_constant=_no_constant)
        # 1e999 and halves of surrogate pairs fail here
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        _refuse(f"{where} is not JSON: {reason[:200]}.", code="bad_json")
    if not isinstance(value, dict):
        _refuse(f"{where} has to be a JSON object, not {_described(value)}.", code="bad_json")
    return value


def bind(
    methods: Mapping[str, Method], name: str, args: Any, stream: Body | None = None
) -> Callable[[], Any]:
    """The call, ready to be made, after a check of name and arguments against the signature.

    A parameter such as ``as_`` is called ``as`` on the wire.

    :raises Refused: ``unknown_method`` or ``bad_args``.
    """
    function = methods.get(name)
    if function is None:
        import difflib

        close = difflib.get_close_matches(name, methods, n=3)
        hint = f"Perhaps {' or '.join(close)} is meant." if close else "See 'magnetar help'."
        _refuse(f"There is no method {name[:80]!r}.", code="unknown_method", next=hint)
    if args is None:
        args = {}
    if not isinstance(args, dict):
        _refuse(f"{name}: args has to be an object, not {_described(args)}.", code="bad_args")
    parameters = dict(inspect.signature(function, eval_str=True).parameters)
    takes_stream = parameters.pop(STREAM, None) is not None
    if takes_stream is not (stream is not None):
        how = "is sent to /v1/upload" if takes_stream else "takes no data; it goes to /v1/call"
        _refuse(f"{name} {how}.", code="bad_request")
    bound = _bind(name, parameters, args)
    if stream is not None:
        bound[STREAM] = stream
    return functools.partial(function, **bound)


def _bind(name: str, parameters: dict[str, inspect.Parameter], args: dict) -> dict[str, Any]:
    named = {
        key.removesuffix("_"): parameter
        for key, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    bound = {}
    for key, value in args.items():
        parameter = named.get(key.removesuffix("_"))
        if parameter is None:
            if not anything:
                known = ", ".join(named) or "none"
                _refuse(
                    f"{name} has no argument {key[:80]!r}.",
                    code="bad_args",
                    next=f"Its arguments are: {known}.",
                )
            bound[key] = value
        elif not fits(value, parameter.annotation):
            wanted = _words(parameter.annotation)
            _refuse(f"{name}: {key} has to be {wanted}, not {_described(value)}.", code="bad_args")
        else:
            bound[parameter.name] = value
    missing = [key for key, p in named.items() if p.default is p.empty and p.name not in bound]
    if missing:
        _refuse(f"{name} needs {', '.join(missing)}.", code="bad_args")
    return bound


def fits(value: Any, hint: Any) -> bool:
    """Whether a value that came as JSON is what the annotation says; True for unknown hints."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is typing.Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    plain = origin or hint
    if plain is None or plain is type(None):
        return value is None
    if plain is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if plain is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if plain in (str, bool):
        return isinstance(value, plain)
    if plain in _LISTS:
        return isinstance(value, list) and all(fits(one, inner[0]) for one in value if inner)
    if plain in _MAPPINGS:
        return isinstance(value, dict) and all(
            fits(one, inner[1]) for one in value.values() if inner
        )
    return True


_LISTS = (
    list,
    tuple,
    set,
    frozenset,
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_NAMES: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    None: "null",
    type(None): "null",
}


def _words(hint: Any) -> str:
    """An annotation as a person says it."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(one) for one in inner)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(one) for one in inner)
    plain = origin or hint
    if plain in _LISTS:
        return "a list" + (f" ({_words(inner[0])} each)" if inner else "")
    if plain in _MAPPINGS:
        return "an object" + (f" ({_words(inner[1])} each)" if inner else "")
    return _NAMES.get(plain, str(plain))


def _described(value: Any) -> str:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    names: dict[Any, str] = {dict: "an object", list: "a list", **_NAMES}
    kind = names[type(value)]
    return shown if value is None or isinstance(value, bool) else f"{kind} ({shown})"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _refuse(what: str, *, code: str = "bad_request", next: str = "") -> NoReturn:
    raise Refused(what, now=NOTHING, next=next or "Correct the request.", code=code)
