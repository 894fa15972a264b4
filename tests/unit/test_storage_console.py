"""Console logs: their ends, across rotated files and hosts."""

import os

import fixtures
import testtools

from virt.storage import console


class TestConsole(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(self.useFixture(fixtures.TempDir()).path, "a", "console.log")

    def write(self, name, data):
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(name, "wb") as file:
            file.write(data)

    def test_no_log_is_empty(self):
        self.assertEqual(b"", console.tail(self.path, 10))

    def test_only_the_end_is_read(self):
        self.write(self.path, b"0123456789")
        self.assertEqual(b"789", console.tail(self.path, 3))
        self.assertEqual(b"0123456789", console.tail(self.path, 10))
        self.assertEqual(b"0123456789", console.tail(self.path, 99))
        self.assertEqual(b"", console.tail(self.path, 0))

    def test_a_rotated_log_is_read_across_the_border(self):
        self.write(self.path + ".0", b"older")
        self.write(self.path, b"new")
        self.assertEqual(b"oldernew", console.tail(self.path, 100))
        self.assertEqual(b"ernew", console.tail(self.path, 5))
        self.assertEqual(b"ew", console.tail(self.path, 2))
        os.unlink(self.path)
        self.assertEqual(b"der", console.tail(self.path, 3))

    def test_what_was_written_elsewhere_comes_first(self):
        self.write(self.path + console.BEFORE, b"elsewhere ")
        self.assertEqual(b"elsewhere ", console.tail(self.path, 100))
        for number, data in enumerate((b"last ", b"second ", b"first ")):
            self.write(f"{self.path}.{number}", data)
        self.write(self.path, b"now")
        self.assertEqual(b"elsewhere first second last now", console.tail(self.path, 100))
        self.assertEqual(b"ere first second last now", console.tail(self.path, 25))
        self.assertEqual(b"last now", console.tail(self.path, 8))

    def test_every_file_of_a_log_is_named(self):
        for name in console.FILES:
            self.write(os.path.join(os.path.dirname(self.path), name), name[-1:].encode())
        self.assertEqual(sorted(os.listdir(os.path.dirname(self.path))), sorted(console.FILES))
        self.assertEqual(b"e210g", console.tail(self.path, 100))

    def test_the_log_is_made_once_and_kept(self):
        console.prepare(self.path)
        self.assertEqual(0o640, os.stat(self.path).st_mode & 0o777 & ~0o027 | 0o040)
        self.write(self.path, b"kept")
        console.prepare(self.path)
        self.assertEqual(b"kept", console.tail(self.path, 9))

    def test_a_link_in_its_place_is_not_followed(self):
        target = self.path + ".target"
        os.makedirs(os.path.dirname(self.path))
        os.symlink(target, self.path)
        self.assertRaises(OSError, console.prepare, self.path)
        self.assertFalse(os.path.exists(target))
