"""A build whose filter_properties were no dict was accepted, failed while it told of its failure,
and held its guest until an operator came. An injected file that was no pair ended in a
traceback, and what went wrong inside a cast was written nowhere.
"""

import testtools

from compute.errors import Refused
from compute.model.wire import injected_files
from compute.rpc.contract import METHODS


class MistypedTest(testtools.TestCase):
    def test_filter_properties_have_to_be_a_dict(self):
        method = METHODS["build_and_run_instance"]
        for value in ("text", [], 7):
            error = self.assertRaises(Refused, method.check_types, {"filter_properties": value})
            self.assertEqual("bad_request", error.code)
        method.check_types({"filter_properties": None})
        method.check_types({"filter_properties": {}})

    def test_injected_files_have_to_be_pairs(self):
        for value in ([7], [["path"]], ["text"]):
            self.assertEqual("bad_request", self.assertRaises(
                Refused, injected_files, value).code)
