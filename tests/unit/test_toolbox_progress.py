"""What runs of tools/test that go on side by side say."""

import io
from unittest import mock

import testtools

from tools.toolbox import progress, testrun


class Terminal(io.StringIO):
    def isatty(self):
        return True


class ProgressTest(testtools.TestCase):
    def shown(self, out, *words):
        """What is written when ``words`` are told, one a second: (who, text) or a line to say."""
        with mock.patch("time.monotonic", side_effect=range(100, 200)):
            shown = progress.Progress(out)
            for word in words:
                shown.say(word) if isinstance(word, str) else shown.tell(*word)
        return out.getvalue()

    def test_a_log_has_a_line_of_each_run_now_and_then_and_the_last_one(self):
        told = [("one", f"{number} passed") for number in range(20)]
        text = self.shown(io.StringIO(), *told, ("two", "1 passed", True), "FAILED x")
        self.assertEqual("   one: 15 passed\n   two: 1 passed\nFAILED x\n", text)

    def test_a_terminal_has_one_line_for_all(self):
        text = self.shown(Terminal(), ("one", "1"), ("two", "2"), "FAILED", ("one", "3", True),
                          ("two", "4"))
        self.assertEqual(["", "one: 1", "one: 1; two: 2", "FAILED\n", "   one: 3\n", "two: 4"],
                         text.split("\r\033[K"))


class BatchesTest(testtools.TestCase):
    def test_every_folder_runs_in_both_modes_and_contract_once(self):
        seen = [(folder, mode) for batch in testrun._batches("all")
                for folders, mode, _ in batch for folder in folders]
        wanted = [(folder, mode) for layer, folders in testrun.LAYERS.items()
                  for folder in folders for mode in testrun.MODES if layer != "contract"]
        self.assertEqual(sorted([*wanted, ("contract", "eventlet")]), sorted(seen))

    def test_a_layer_alone(self):
        self.assertEqual([["crash", "simulation"]] * 2,
                         [folders for folders, _, _ in testrun._batches("crash")[0]])
        self.assertEqual(1, len(testrun._batches("contract")[0]))
        self.assertEqual([], testrun._batches("style"))
