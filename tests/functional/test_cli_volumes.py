"""Commands about volumes: from the words typed to the call made, and what is printed."""

import json

from compute.errors import Refused
from tests.functional.cli_support import WEB, CliCase, server

VOLUME = {
    "id": "22222222-0c0d-4a8c-9df5-4a5f7f2f5b01", "name": "data", "description": None, "size": 4,
    "status": "in-use", "bootable": False, "multiattach": False, "disk_format": "raw",
    "driver": "local", "image": None, "source_volume": None, "properties": {}, "message": None,
    "created_at": "2026-11-20T10:00:00Z",
    "attachments": [{"attachment_id": "a1", "server_id": WEB, "server": "web", "host_name": "h1",
                     "device": "/dev/vdb", "status": "attached"}],
}
ATTACHED = {"server_id": WEB, "volume_id": VOLUME["id"], "device": "/dev/vdb", "tag": None,
            "boot_index": None, "size": 4, "delete_on_termination": False, "attachment_id": "a1",
            "bdm_uuid": "b1"}
TABLE = f"""\
+--------------------------------------+------+--------+-------+-----------------+
| ID                                   | Name | Status | Size  | Attached to     |
+--------------------------------------+------+--------+-------+-----------------+
| {VOLUME["id"]} | data | in-use | 4 GiB | web on /dev/vdb |
+--------------------------------------+------+--------+-------+-----------------+
"""


class VolumeCommandsTest(CliCase):
    def setUp(self):
        super().setUp()
        self.serve()
        asked = {**ATTACHED, "request_id": "req-1"}
        self.plane.answers.update({
            "volume.list": [VOLUME], "volume.show": VOLUME, "volume.create": VOLUME,
            "volume.set": VOLUME, "server.volumes": [ATTACHED], "server.add_volume": asked,
            "server.remove_volume": asked, "server.swap_volume": asked,
            "server.update_volume": ATTACHED, "server.create": server()})

    def called(self, *words):
        """The one call that a command makes."""
        self.plane.calls.clear()
        self.ok(*words)
        self.assertEqual(1, len(self.plane.calls), self.plane.calls)
        return self.plane.calls[0]

    def test_words_become_calls(self):
        path = self.file("far.json", b'{"driver_volume_type": "nfs", "data": {}}')
        for words, method, args in (
            ("volume create --size 4 data", "volume.create",
             {"name": "data", "size": 4, "properties": {}}),
            ("volume create --image tiny --disk-format qcow2 --multi-attach --bootable data",
             "volume.create", {"name": "data", "image": "tiny", "disk_format": "qcow2",
                               "multiattach": True, "bootable": True, "properties": {}}),
            ("volume create --source data --property a=b --request-id r1 copy", "volume.create",
             {"name": "copy", "source": "data", "properties": {"a": "b"}, "request_id": "r1"}),
            (f"volume create --size 1 --connection-info {path} far", "volume.create",
             {"name": "far", "size": 1, "properties": {},
              "connection_info": {"driver_volume_type": "nfs", "data": {}}}),
            ("volume set --size 8 data", "volume.set", {"volume": "data", "size": 8}),
            ("volume set --state available --detached --non-bootable data", "volume.set",
             {"volume": "data", "state": "available", "detached": True, "bootable": False}),
            ("volume delete data", "volume.delete", {"volume": "data"}),
            ("server add volume web data", "server.add_volume",
             {"server": "web", "volume": "data"}),
            ("server add volume --device /dev/vdc --tag db --enable-delete-on-termination web data",
             "server.add_volume", {"server": "web", "volume": "data", "device": "/dev/vdc",
                                   "tag": "db", "delete_on_termination": True}),
            ("server remove volume web data", "server.remove_volume",
             {"server": "web", "volume": "data"}),
            ("server volume update --preserve-on-termination web data", "server.update_volume",
             {"server": "web", "volume": "data", "delete_on_termination": False}),
            ("server volume swap web data more", "server.swap_volume",
             {"server": "web", "old": "data", "new": "more"}),
        ):
            self.assertEqual((method, args), self.called(*words.split()), words)

    def test_what_a_server_boots_from(self):
        base = {"name": "web", "flavor": "small", "config_drive": None, "properties": {},
                "hints": {}}
        for words, args in (
            ("--volume root", {"volume": "root"}),
            ("--image tiny --boot-from-volume 8", {"image": "tiny", "boot_from_volume": 8}),
            ("--image tiny --block-device uuid=data,tag=db,delete_on_termination=true "
             "--block-device volume_size=2", {
                 "image": "tiny", "block_devices": [
                     {"uuid": "data", "tag": "db", "delete_on_termination": True,
                      "source_type": "volume"},
                     {"volume_size": 2, "source_type": "blank"}]}),
        ):
            method, called = self.called(
                "server", "create", "--flavor", "small", *words.split(), "web")
            self.assertEqual("server.create", method)
            wanted = {name: value for name, value in {**base, **args}.items() if value is not None}
            self.assertEqual(wanted, called)

    def test_wrong_words_are_told(self):
        nonsense = self.file("far.json", b"nonsense")
        for words in ("server create --flavor small web",
                      "server create --flavor small --image a --volume b web",
                      "server create --flavor small --volume b --boot-from-volume 1 web",
                      "server create --flavor small --image a --block-device boot_index=x web",
                      f"volume create --size 1 --connection-info {nonsense} far",
                      "server volume update web data"):
            code, _, err = self.run_cli(*words.split())
            self.assertEqual(2, code, words)
            self.assertTrue(err)
        self.assertEqual([], self.plane.calls)

    def test_tables(self):
        self.assertEqual(TABLE, self.ok("volume", "list"))
        [row] = json.loads(self.ok("server", "volume", "list", "-f", "json", "web"))
        self.assertEqual((VOLUME["id"], "/dev/vdb", False),
                         (row["Volume ID"], row["Device"], row["Delete On Termination?"]))
        self.assertIn("web on /dev/vdb", self.ok("volume", "show", "data"))

    def test_a_create_waits_until_the_copy_is_made(self):
        self.plane.answers["volume.create"] = {**VOLUME, "status": "downloading"}
        self.plane.script("volume.show", {**VOLUME, "status": "downloading"},
                          {**VOLUME, "status": "available"})
        self.assertIn("available", self.ok("volume", "create", "--image", "t", "--wait", "data"))
        self.plane.script("volume.show", {**VOLUME, "status": "error", "message": "Disk full."})
        code, _, err = self.run_cli("volume", "create", "--image", "t", "--wait", "data")
        self.assertEqual(1, code)
        self.assertIn("Disk full.", err)

    def test_attaching_waits_for_the_end_of_this_request(self):
        def action(result, details=None):
            return [{"request_id": "req-1", "events": [{"result": result, "details": details}]}]

        self.plane.script("server.actions", action(None), action("Success"))
        self.ok("server", "add", "volume", "--wait", "web", "data")
        self.plane.script("server.actions", action("Error", "The guest did not let go."))
        for words in (("remove", "volume"), ("volume", "swap")):
            more = ["more"] if words[1] == "swap" else []
            code, _, err = self.run_cli("server", *words, "--wait", "web", "data", *more)
            self.assertEqual(1, code)
            self.assertIn("did not let go", err)
        self.plane.script("server.actions", action(None))
        code, _, err = self.run_cli("server", "remove", "volume", "--wait", "--timeout", "0",
                                    "web", "data")
        self.assertEqual(1, code)
        self.assertIn("magnetar explain", err)

    def test_a_refusal_is_told(self):
        self.plane.answers["volume.delete"] = Refused("It is in use.", next="Take it out.",
                                                      code="volume_in_use")
        code, _, err = self.run_cli("volume", "delete", "data")
        self.assertEqual((1, "It is in use.\nTake it out.\n"), (code, err))
