"""The volume port's adapters without a service, and to the embedded control plane."""

import pathlib
import subprocess
import sys

import testtools
from oslo_config import cfg

from compute import conf as configuration
from compute.errors import Refused, Retryable
from compute.services import chosen
from compute.services.volumes import EmbeddedVolumes, NoVolumes

TOP = pathlib.Path(__file__).resolve().parents[2]


class Conductor:
    """Answers as it was told; notes what was asked."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def magnetar(self, context, method, **args):
        self.asked.append((method, args))
        return self.answer


class ChosenTest(testtools.TestCase):
    def test_the_option_chooses(self):
        conf = cfg.ConfigOpts()
        configuration.register(conf)
        conf([], default_config_files=[])
        self.assertIsInstance(chosen.volumes(conf, None), NoVolumes)
        conf.set_override("volume_service", "embedded")
        self.assertIsInstance(chosen.volumes(conf, None), EmbeddedVolumes)


    def test_what_speaks_http_is_loaded_only_then(self):
        loaded = subprocess.check_output(
            [sys.executable, "-c", "import sys, compute.agent, compute.services.chosen; "
             "print('keystoneauth1' in sys.modules)"], text=True, cwd=TOP)
        self.assertEqual("False", loaded.strip())


class NoVolumesTest(testtools.TestCase):
    def test_whatever_asks_for_a_volume_is_refused_with_what_to_do(self):
        port = NoVolumes()
        for ask in (lambda: port.show({}, "v"), lambda: port.create({}, 1, "v"),
                    lambda: port.attachment_create({}, "v", "g"),
                    lambda: port.attachment_update({}, "a", {}, "/dev/vdb"),
                    lambda: port.attachment_complete({}, "a"),
                    lambda: port.migrate_completion({}, "v", "w", False)):
            error = self.assertRaises(Refused, ask)
            self.assertEqual("volume_not_found", error.code)
            self.assertIn("volume_service", error.next)

    def test_giving_back_what_is_not_there_is_quiet(self):
        port = NoVolumes()
        self.assertEqual([None] * 3, [port.delete({}, "v"), port.attachment_delete({}, "a"),
                                      port.roll_detaching({}, "v")])


class EmbeddedTest(testtools.TestCase):
    def test_an_error_of_the_service_is_raised_as_it_is(self):
        told = Retryable("The disk is full.", code="disk_full").to_dict()
        port = EmbeddedVolumes(Conductor({"error": told}))
        error = self.assertRaises(Retryable, port.attachment_create, {}, "v", "g")
        self.assertEqual("disk_full", error.code)

    def test_the_answer_is_handed_on(self):
        conductor = Conductor({"result": "attachment"})
        port = EmbeddedVolumes(conductor)
        self.assertEqual("attachment", port.attachment_create({}, "v", "g"))
        self.assertEqual([("volume_attachment_create",
                           {"volume_id": "v", "instance_uuid": "g"})], conductor.asked)

    def test_types_and_snapshots_are_refused(self):
        conductor = Conductor({"result": "v"})
        port = EmbeddedVolumes(conductor)
        self.assertRaises(Refused, port.create, {}, 1, "v", snapshot_id="s")
        self.assertRaises(Refused, port.create, {}, 1, "v", volume_type="fast")
        self.assertEqual([], conductor.asked)
