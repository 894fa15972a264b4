"""Sizes, times and sections as people read them."""

import testtools

from control.cli.columns import GiB, MiB, Plain, Size, Time, plain_text, size_text
from control.cli.report import sections


class ColumnsTest(testtools.TestCase):
    def test_sizes(self):
        for count, text in ((0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1 GiB"),
                            (5 << 60, "5120 PiB"), (-2048, "-2 KiB")):  # fmt: skip
            self.assertEqual(text, size_text(count))
        self.assertEqual("512 MiB", MiB(512).human_readable())
        self.assertEqual("2 TiB", GiB(2048).human_readable())
        self.assertEqual(("", None), (Size(None).human_readable(), Size(None).machine_readable()))
        self.assertEqual(512, MiB(512).machine_readable())

    def test_times(self):
        for text in ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.987+00:00"):
            self.assertEqual("2026-01-01T00:00:00Z", Time(text).human_readable())
            self.assertEqual(text, Time(text).machine_readable())
        self.assertEqual("", Time(None).human_readable())

    def test_plain(self):
        self.assertEqual("a=1, b=yes", plain_text({"b": True, "a": 1}))
        self.assertEqual('x, {"a": 1}', plain_text(["x", {"a": 1}]))
        self.assertEqual({"a": None}, Plain({"a": None}).machine_readable())


class SectionsTest(testtools.TestCase):
    def lines(self, **values):
        return list(sections(values))

    def test_properties_go_first_and_empty_ones_are_left_out(self):
        self.assertEqual(
            ["Guest     a", "Next act  two", "          lines", "", "Steps", "  none"],
            self.lines(steps=[], guest="a", next_act="two\nlines", nothing=None),
        )

    def test_rows_become_columns(self):
        rows = [{"step": "claim", "seconds": 1}, {"step": "disks", "seconds": None, "why": "x"}]
        self.assertEqual(
            ["Steps", "  Step   Seconds  Why", "  claim  1", "  disks           x"],
            self.lines(steps=rows),
        )

    def test_only_the_last_column_may_be_long(self):
        short = self.lines(rows=[{"a": "1", "b": "x" * 300}])
        self.assertEqual(["Rows", "  A  B"], short[:2])
        self.assertIn("  A  " + "x" * 300, self.lines(rows=[{"a": "x" * 300, "b": "1"}]))

    def test_statements(self):
        finding = {"rule": "one_owner", "subject": "g", "what": "No owner.", "next": "Look.",
                   "extra": 1}  # fmt: skip
        self.assertEqual(
            ["Findings", "  [one_owner] g: No owner.", "      Look.", "      extra=1"],
            self.lines(findings=[finding]),
        )

    def test_mappings_and_lists_of_words(self):
        self.assertEqual(
            ["Verdict", "  Act  wait", "", "List", "  - a", "  - b"],
            self.lines(verdict={"act": "wait"}, list=["a", "b"]),
        )

    def test_rows_with_lists_become_blocks(self):
        rows = [{"id": "1", "tags": ["a"]}, {"id": "2", "tags": []}]
        self.assertEqual(
            ["Rows", "  Id  1", "", "  Tags", "    - a", "", "  Id  2", "", "  Tags",
             "    none"],
            self.lines(rows=rows),
        )  # fmt: skip
