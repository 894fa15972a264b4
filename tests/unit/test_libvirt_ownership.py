"""The cache of ownership and the notes that outlive a process."""

import os

import fixtures
import testtools

from virt.libvirt import notes
from virt.libvirt.notes import Notes
from virt.libvirt.ownership import FOREIGN, Owned, OwnershipCache

OURS = Owned(True, 3, "op-1")


class TestCache(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.cache = OwnershipCache()

    def test_what_was_read_is_known_until_it_is_forgotten(self):
        self.assertIsNone(self.cache.get("a"))
        self.cache.put("a", OURS, self.cache.ticket())
        self.assertEqual(OURS, self.cache.get("a"))
        self.cache.forget("a")
        self.assertIsNone(self.cache.get("a"))

    def test_a_slow_reader_does_not_bring_back_what_was_forgotten(self):
        ticket = self.cache.ticket()
        self.cache.forget("a")
        self.cache.put("a", OURS, ticket)
        self.cache.put("b", OURS, ticket)
        self.assertEqual((None, OURS), (self.cache.get("a"), self.cache.get("b")))
        ticket = self.cache.ticket()
        self.cache.doubt_all()
        self.cache.put("c", OURS, ticket)
        self.assertIsNone(self.cache.get("c"))

    def test_doubt_turns_knowledge_into_notes(self):
        self.cache.put("a", OURS, self.cache.ticket())
        self.cache.doubt_all()
        self.assertEqual((None, OURS), (self.cache.get("a"), self.cache.noted("a")))
        self.cache.put("a", FOREIGN, self.cache.ticket())
        self.assertEqual((FOREIGN, None), (self.cache.get("a"), self.cache.noted("a")))

    def test_domains_that_are_gone_are_dropped(self):
        for uuid in "ab":
            self.cache.put(uuid, OURS, self.cache.ticket())
        self.cache.keep_only({"b"})
        self.assertEqual((None, OURS), (self.cache.get("a"), self.cache.get("b")))


class TestNotes(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        self.path = os.path.join(self.useFixture(fixtures.TempDir()).path, "notes")

    def cache(self, about="uri"):
        made = Notes(self.path, about)
        self.addCleanup(made.close)
        cache = OwnershipCache(made)
        cache.load()
        return cache

    def filled(self):
        cache = self.cache()
        for uuid, owned in (("a", OURS), ("b", FOREIGN), ("c", OURS)):
            cache.put(uuid, owned, cache.ticket())
        cache.forget("c")
        return cache

    def test_a_new_process_knows_what_the_old_one_noted(self):
        self.filled()
        again = self.cache()
        self.assertEqual((OURS, FOREIGN, None), tuple(again.noted(uuid) for uuid in "abc"))
        self.assertIsNone(again.get("a"))

    def test_what_a_domain_was_is_void_before_it_changes(self):
        cache = self.filled()
        cache.forget("a")  # and now the process is killed
        self.assertIsNone(self.cache().noted("a"))

    def test_a_confirmed_note_is_not_written_again(self):
        self.filled()
        again = self.cache()
        size = os.path.getsize(self.path)
        again.put("a", OURS, again.ticket())
        self.assertEqual(size, os.path.getsize(self.path))
        again.forget("a")
        self.assertLess(size, os.path.getsize(self.path))

    def test_notes_of_another_boot_or_uri_are_void(self):
        self.filled()
        self.assertIsNone(self.cache(about="other").noted("a"))
        self.filled()
        self.patch(notes, "boot_id", lambda: "later")
        self.assertIsNone(self.cache().noted("a"))

    def test_a_damaged_file_is_void_as_a_whole(self):
        for damage in (b'["a", [tr', b"\xff\xfe", b"[1]\n", b"{}\n"):
            self.filled()
            with open(self.path, "ab") as file:
                file.write(damage)
            self.assertIsNone(self.cache().noted("b"), damage)

    def test_a_directory_that_cannot_be_written_costs_only_the_notes(self):
        self.path = os.path.join(self.path, "no", "such", "directory")
        cache = self.filled()
        self.assertEqual(OURS, cache.get("a"))

    def test_the_file_does_not_grow_from_start_to_start(self):
        for _ in range(3):
            self.filled()
        self.cache()
        with open(self.path) as file:
            self.assertEqual(3, len(file.readlines()))
