"""What the control socket accepts as a call: names, arguments, bodies."""

import functools
import io
import json
from collections.abc import Mapping, Sequence
from email.message import Message
from typing import Any, Literal

import testtools
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.errors import Failed, Refused
from compute.operator.socket_calls import Body, bind, fits, parse_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def create(*, name: str, ram: int = 64, networks: list[str] | None = None, hard: bool = False):
    return (name, ram, networks, hard)


def resolve(op: str, as_: Literal["done", "undone"], reason: str):
    return (op, as_, reason)


def upload(*, name: str, stream: Any):
    return name, stream.read()


METHODS = {"flavor.create": create, "op.resolve": resolve, "image.create": upload}


class BindTest(testtools.TestCase):
    def refused(self, code: str, *words: str, args: Any, name: str = "flavor.create"):
        error = self.assertRaises(Refused, bind, METHODS, name, args)
        self.assertEqual(code, error.code)
        for word in words:
            self.assertIn(word, f"{error.what} {error.next}")
        self.assertEqual("Nothing was done.", error.now)

    def test_good_arguments_reach_the_method(self):
        args = {"name": "a", "ram": 128, "networks": ["x"], "hard": True}
        self.assertEqual(("a", 128, ["x"], True), bind(METHODS, "flavor.create", args)())
        self.assertEqual(("a", 64, None, False), bind(METHODS, "flavor.create", {"name": "a"})())

    def test_trailing_underscore_is_not_on_the_wire(self):
        args = {"op": "1", "as": "done", "reason": "seen"}
        self.assertEqual(("1", "done", "seen"), bind(METHODS, "op.resolve", args)())

    def test_unknown_method_names_near_ones(self):
        self.refused(
            "unknown_method", "flavor.creat", "flavor.create", args={}, name="flavor.creat"
        )

    def test_unknown_argument_names_the_known_ones(self):
        self.refused("bad_args", "'color'", "networks", args={"name": "a", "color": "red"})

    def test_missing_argument(self):
        self.refused("bad_args", "needs name", args={})
        self.refused("bad_args", "needs name", args=None)
        self.refused("bad_args", "needs as, reason", args={"op": "1"}, name="op.resolve")

    def test_mistyped_arguments(self):
        self.refused("bad_args", "name", "a text", args={"name": 5})
        self.refused("bad_args", "ram", "a whole number", args={"name": "a", "ram": "64"})
        self.refused("bad_args", "ram", args={"name": "a", "ram": True})
        self.refused("bad_args", "ram", args={"name": "a", "ram": 1.5})
        self.refused("bad_args", "list", args={"name": "a", "networks": "x"})
        self.refused("bad_args", "list", args={"name": "a", "networks": [1]})
        self.refused("bad_args", "hard", "true or false", args={"name": "a", "hard": 1})
        wrong = {"op": "1", "as": "gone", "reason": ""}
        self.refused("bad_args", "done, undone", args=wrong, name="op.resolve")

    def test_args_that_are_no_object(self):
        self.refused("bad_args", "object", args=["a"])

    def test_a_stream_is_only_for_uploads(self):
        self.refused("bad_request", "/v1/upload", args={"name": "a"}, name="image.create")
        body = Body(io.BytesIO(b"abc"), 3)
        self.assertEqual(("a", b"abc"), bind(METHODS, "image.create", {"name": "a"}, body)())
        self.assertRaises(Refused, bind, METHODS, "flavor.create", {"name": "a"}, body)

    def test_the_stream_itself_cannot_be_given_as_an_argument(self):
        body = Body(io.BytesIO(b""), 0)
        args = {"name": "a", "stream": "x"}
        self.assertRaises(Refused, bind, METHODS, "image.create", args, body)

    def test_partials_and_keyword_collectors(self):
        part = functools.partial(create, hard=True)
        self.assertEqual(("a", 64, None, True), bind({"p": part}, "p", {"name": "a"})())
        loose = {"l": lambda **rest: rest}
        self.assertEqual({"x": 1}, bind(loose, "l", {"x": 1})())

    @settings(max_examples=150)
    @given(st.dictionaries(st.sampled_from(["name", "ram", "networks", "hard", "?"]), JSON) | JSON)
    def test_odd_arguments_are_refused_or_fit(self, args):
        try:
            call = bind(METHODS, "flavor.create", args)
        except Refused:
            return
        name, ram, networks, hard = call()
        self.assertIsInstance(name, str)
        self.assertIs(int, type(ram))
        self.assertIsInstance(hard, bool)
        self.assertTrue(networks is None or all(isinstance(n, str) for n in networks))


class FitsTest(testtools.TestCase):
    def test_containers(self):
        self.assertTrue(fits({"a": [1]}, Mapping[str, Sequence[int]]))
        self.assertFalse(fits({"a": ["1"]}, dict[str, list[int]]))
        self.assertTrue(fits([], list))
        self.assertFalse(fits({}, list))

    def test_numbers(self):
        self.assertTrue(fits(1, float))
        self.assertFalse(fits(True, float))
        self.assertFalse(fits(False, int))

    def test_unions_and_unknown_hints(self):
        self.assertTrue(fits(None, str | None))
        self.assertFalse(fits(0, str | None))
        self.assertTrue(fits(object(), Any))
        self.assertFalse(fits(1, Literal[True]))


class ParseTest(testtools.TestCase):
    def test_bad_json(self):
        deep = b"[" * 200_000
        for data in (
            b"",
            b"{",
            b"[]",
            b"3",
            b"\xff",
            b'{"a": NaN}',
            b'{"a": 1e999}',
            b'{"a": "\\ud800"}',
            deep,
        ):
            error = self.assertRaises(Refused, parse_json, data, "It")
            self.assertEqual("bad_json", error.code)

    @settings(max_examples=100)
    @given(st.dictionaries(st.text(), JSON))
    def test_what_json_can_say_is_understood(self, value):
        self.assertEqual(value, parse_json(json.dumps(value).encode(), "It"))

    @settings(max_examples=100)
    @given(st.binary(max_size=60))
    def test_any_bytes_are_refused_or_an_object(self, data):
        try:
            self.assertIsInstance(parse_json(data, "It"), dict)
        except Refused as error:
            self.assertEqual("bad_json", error.code)


def chunked(data: bytes) -> Body:
    return Body(io.BytesIO(data), None)


class BodyTest(testtools.TestCase):
    def test_by_length(self):
        body = Body(io.BytesIO(b"hello, next request"), 5)
        self.assertEqual(b"he", body.read(2))
        self.assertEqual(b"llo", body.read())
        self.assertEqual(b"", body.read(10))

    def test_in_chunks(self):
        body = chunked(b"5\r\nhello\r\n1;ext=1\r\n!\r\n0\r\nTrailer: x\r\n\r\nnext")
        self.assertEqual(b"hel", body.read(3))
        self.assertEqual(b"lo!", body.read())
        self.assertEqual(b"", body.read())

    def test_a_cut_is_an_error_never_an_end(self):
        for body in (Body(io.BytesIO(b"abc"), 5), chunked(b"5\r\nabc"), chunked(b"3\r\nabc\r\n")):
            error = self.assertRaises(Failed, body.read)
            self.assertEqual("upload_cut", error.code)
            self.assertFalse(body.drain(100))

    def test_nonsense_chunk_sizes(self):
        for head in (b"-1", b"0x5", b"", b"zz", b"1" * 16):
            self.assertRaises(Refused, chunked(head + b"\r\nabcde\r\n0\r\n\r\n").read)

    def test_limit(self):
        self.assertEqual(b"1234", Body(io.BytesIO(b"1234"), 4).read_all(4))
        for body in (Body(io.BytesIO(b"12345"), 5), chunked(b"5\r\n12345\r\n0\r\n\r\n")):
            self.assertEqual("bad_size", self.assertRaises(Refused, body.read_all, 4).code)

    def test_drain(self):
        self.assertTrue(Body(io.BytesIO(b"12345"), 5).drain(10))
        self.assertFalse(Body(io.BytesIO(b"12345"), 5).drain(4))
        self.assertTrue(chunked(b"5\r\n12345\r\n0\r\n\r\n").drain(10))
        self.assertFalse(chunked(b"5\r\n12345\r\n5\r\n12345\r\n0\r\n\r\n").drain(6))

    def test_headers_that_contradict_each_other(self):
        for pairs in (
            [("Content-Length", "1"), ("Content-Length", "2")],
            [("Content-Length", "-1")],
            [("Content-Length", "1_0")],
            [("Content-Length", "\u0663")],
            [("Content-Length", "3"), ("Transfer-Encoding", "chunked")],
            [("Transfer-Encoding", "gzip")],
            [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
        ):
            message = Message()
            for key, value in pairs:
                message[key] = value
            self.assertRaises(Refused, Body.of, io.BytesIO(b"abc"), message)

    @settings(max_examples=150)
    @given(st.binary(max_size=80), st.integers(1, 20))
    def test_odd_chunks_end_or_are_refused(self, data, size):
        body = chunked(data)
        try:
            while body.read(size):
                pass
        except (Refused, Failed):
            return
        self.assertIn(b"0", data)

    @settings(max_examples=100)
    @given(st.lists(st.binary(min_size=1, max_size=20)), st.integers(1, 7))
    def test_chunks_come_out_as_they_went_in(self, pieces, size):
        wire = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        body = chunked(wire + b"0\r\n\r\n")
        self.assertEqual(b"".join(pieces), b"".join(iter(lambda: body.read(size), b"")))
