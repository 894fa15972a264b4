"""Declared properties: reading, writing, order, and keeping what is not declared."""

import testtools
from hypothesis import given
from hypothesis import strategies as st

from virt.xml.base import INT, ON_OFF, YES_NO, Child, Children, Element, Flag, Prop


class ExamplePart(Element):
    tag = "part"
    number = Prop("@number", INT)


class ExampleWhole(Element):
    tag = "whole"
    kind = Prop("@kind")
    first = Prop("first")
    unit = Prop("first@unit")
    deep = Prop("a/b/c")
    deeper = Prop("a/b@on", ON_OFF)
    later = Prop("a/z@yes", YES_NO)
    flag = Flag("flag")
    part = Child(ExamplePart)
    last = Prop("last", INT)


class ExampleList(Element):
    tag = "list"
    parts = Children(ExamplePart)
    end = Prop("end")


class TestProperties(testtools.TestCase):
    def test_what_is_absent_is_none_and_flags_are_false(self):
        whole = ExampleWhole()
        for name in ("kind", "first", "unit", "deep", "deeper", "later", "part", "last"):
            self.assertIsNone(getattr(whole, name), name)
        self.assertIs(False, whole.flag)
        self.assertEqual("<whole/>\n", whole.to_xml())

    def test_values_are_read_back_in_their_type(self):
        whole = ExampleWhole(
            kind="k", first="1", unit="KiB", deep="text", deeper=True, later=False, flag=True,
            part=ExamplePart(number=7), last=-3,
        )  # fmt: skip
        self.assertEqual(
            ("k", "1", "KiB", "text", True, False, True, 7, -3),
            (whole.kind, whole.first, whole.unit, whole.deep, whole.deeper, whole.later,
             whole.flag, whole.part.number, whole.last),
        )  # fmt: skip

    def test_the_order_of_output_is_the_order_of_declaration(self):
        straight = ExampleWhole(first="1", deep="2", later=True, flag=True, last=3)
        backward = ExampleWhole(last=3, flag=True, later=True, deep="2", first="1")
        self.assertEqual(straight.to_xml(), backward.to_xml())
        self.assertEqual(["first", "a", "flag", "last"], [node.tag for node in straight.node])
        self.assertEqual(["b", "z"], [node.tag for node in straight.node.find("a")])

    def test_none_removes_and_leaves_no_empty_husk(self):
        whole = ExampleWhole(first="1", unit="KiB", part=ExamplePart(), flag=True)
        whole.first = None
        self.assertEqual("KiB", whole.unit)
        whole.unit = None
        whole.part = None
        whole.flag = False
        whole.last = None
        self.assertEqual("<whole/>\n", whole.to_xml())

    def test_an_unknown_property_is_an_error(self):
        self.assertRaises(TypeError, ExampleWhole, colour="red")
        self.assertRaises(TypeError, ExampleWhole().add, ExamplePart())

    def test_lists_are_replaced_and_extended_in_place(self):
        parts = ExampleList(end="e", parts=[ExamplePart(number=1), ExamplePart(number=2)])
        parts.add(ExamplePart(number=3))
        self.assertEqual([1, 2, 3], [part.number for part in parts.parts])
        self.assertEqual("end", parts.node[-1].tag)
        parts.parts = [ExamplePart(number=9)]
        self.assertEqual([9], [part.number for part in parts.parts])

    def test_parsing_keeps_what_is_not_declared(self):
        text = (
            '<whole kind="k" new="x"><first>1</first><unknown><deep/></unknown>'
            "<last>2</last></whole>"
        )
        whole = ExampleWhole.parse(text)
        whole.last = 5
        whole.deep = "here"
        self.assertEqual("x", whole.node.get("new"))
        self.assertEqual(
            ["first", "unknown", "a", "last"], [node.tag for node in whole.node]
        )

    def test_what_is_no_document_of_this_kind_is_a_value_error(self):
        for text in ("", "no xml", "<whole>", "<other/>", "<whole/><whole/>"):
            self.assertRaises(ValueError, ExampleWhole.parse, text)

    def test_entities_are_not_expanded(self):
        text = (
            '<!DOCTYPE whole [<!ENTITY e SYSTEM "file:///etc/hostname">]>'
            "<whole><first>&e;</first></whole>"
        )
        self.assertIn(ExampleWhole.parse(text).first, (None, ""))

    @given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1))
    def test_any_printable_text_survives(self, text):
        whole = ExampleWhole.parse(ExampleWhole(kind=text, deep=text).to_xml())
        self.assertEqual((text, text.strip()), (whole.node.get("kind"), whole.deep))
