"""docs/features.md tells what the code does."""

import re
import types

import testtools

from compute import conf
from tests.unit.test_docs import DOCS, TOP, tables

PAGE = DOCS / "features.md"
STATUS = ("complete", "partial", "missing")
WISH = re.compile(r"`((?:hw|os|quota|hw_rng|hw_video):[a-z_]+|hw_[a-z_]+|(?:img|os)_[a-z_]+)")


class FeaturesTest(testtools.TestCase):
    def rows(self):
        for listed in tables(PAGE.read_text()):
            self.assertEqual(["feature", "status", "how, or why not"], listed[0])
            for row in listed[1:]:
                yield types.SimpleNamespace(name=row[0], status=row[1],
                                            words=row[2] if len(row) > 2 else "")

    def test_each_row_has_a_status_and_its_reason(self):
        names = [row.name for row in self.rows()]
        self.assertGreater(len(names), 50)
        self.assertEqual(len(set(names)), len(names))
        for row in self.rows():
            self.assertIn(row.status, STATUS, row.name)
            if row.status != "complete":
                self.assertGreater(len(row.words), 8, row.name)

    def test_every_wish_that_is_named_is_read(self):
        source = "".join(path.read_text() for folder in ("virt", "compute", "control")
                         for path in (TOP / folder).rglob("*.py"))
        for row in self.rows():
            for wish in WISH.findall(row.words):
                key = wish.partition(":")[2] if wish.startswith(("hw:", "quota:", "os:")) \
                    else wish
                parts = {key, key.removeprefix("hw_"),
                         re.sub(r"^vif_(in|out)bound_.*", "vif_", key),
                         re.sub(r"^cpu_(sockets|cores|threads)$", "cpu_", key),
                         re.sub(r"^numa_(cpus|mem)$", r"numa_\1.", key)}
                self.assertTrue(any(part in source for part in parts), f"{row.name}: {wish}")

    def test_every_option_that_is_named_is_one(self):
        known = {(module.GROUP or "DEFAULT", option.dest) for module in conf.MODULES
                 for option in module.OPTS}
        for group, name in re.findall(r"`\[(\w+)\] (\w+)`", PAGE.read_text()):
            self.assertIn((group, name), known)
