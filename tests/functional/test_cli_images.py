"""Commands that make images of servers, and servers of images again."""

from control.cli import wait
from tests.functional.cli_support import IMAGE, WEB, CliCase, server

QUEUED = {**IMAGE, "id": "22222222-0c0d-4a8c-9df5-4a5f7f2f5b01", "name": "copy",
          "status": "queued", "disk_format": "", "hash_value": ""}
ACTIVE = {**QUEUED, "status": "active", "disk_format": "qcow2"}


class ImagesCase(CliCase):
    def setUp(self):
        super().setUp()
        self.serve()
        self.patch(wait, "FIRST_POLL", 0.001)
        for method in ("server.image_create", "server.backup_create"):
            self.plane.answers[method] = QUEUED

    def called(self, *words: str) -> tuple:
        """The last call that a command makes."""
        self.plane.calls.clear()
        self.ok(*words)
        return self.plane.calls[-1]


class WordsTest(ImagesCase):
    def test_each_command_makes_its_call(self):
        for words, method, args in (
            ("server image create web", "server.image_create", {"properties": {}}),
            ("server image create --name copy --property a=b web", "server.image_create",
             {"name": "copy", "properties": {"a": "b"}}),
            ("server backup create --type daily --rotate 7 web", "server.backup_create",
             {"properties": {}, "backup_type": "daily", "rotation": 7}),
        ):
            self.assertEqual((method, {"server": WEB, **args}), self.called(*words.split()))

    def test_what_is_shown(self):
        self.assertEqual(f"queued {QUEUED['id']}\n", self.ok(
            "server", "image", "create", "web", "-f", "value", "-c", "id", "-c", "status")
            .replace(f"{QUEUED['id']}\nqueued", f"queued {QUEUED['id']}"))


class WaitTest(ImagesCase):
    WORDS = ("server", "image", "create", "--wait", "web", "-f", "value", "-c", "status")

    def test_until_it_is_active(self):
        busy = server(task_state="image_uploading")
        self.plane.script("server.show", server(), busy, busy, server())
        self.plane.answers["image.list"] = [IMAGE, ACTIVE]
        code, out, err = self.run_cli(*self.WORDS)
        self.assertEqual((0, "active\n"), (code, out), err)
        self.assertIn("web: ", err)

    def test_what_went_wrong(self):
        self.plane.answers["image.list"] = [IMAGE]
        self.plane.answers["server.actions"] = [{"events": [{"details": "The disk is full."}]}]
        code, out, err = self.run_cli(*self.WORDS)
        self.assertEqual((1, ""), (code, out))
        self.assertIn("No image was made of web: The disk is full.\nThe server is as it was.", err)


class RebuildTest(ImagesCase):
    def test_each_word_is_passed_on(self):
        for words, args in (
            ("server rebuild web", {}),
            ("server rebuild --image i --name n --password p --property a=b web",
             {"image": "i", "name": "n", "password": "p", "properties": {"a": "b"}}),
        ):
            self.assertEqual(("server.rebuild", {"server": WEB, **args}),
                             self.called(*words.split()))

    def test_it_is_waited_for_in_the_state_that_it_had(self):
        for before in ("active", "stopped"):
            self.plane.script("server.show", server(vm_state=before),
                              server(vm_state=before, task_state="rebuilding"),
                              server(vm_state=before))
            code, _, err = self.run_cli("server", "rebuild", "--wait", "web")
            self.assertEqual(0, code, err)
        self.plane.script("server.show", server(), server(vm_state="error", fault={
            "message": "It broke."}))
        code, _, err = self.run_cli("server", "rebuild", "--wait", "web")
        self.assertEqual(1, code)
        self.assertIn("It broke.", err)


class ShelveTest(ImagesCase):
    def test_each_word_is_passed_on(self):
        for words, method, args in (
            ("server shelve web", "server.shelve", {}),
            ("server unshelve web", "server.unshelve", {}),
            ("server unshelve --host h2 web", "server.unshelve", {"host": "h2"}),
        ):
            self.assertEqual((method, {"server": WEB, **args}), self.called(*words.split()))

    def methods(self) -> list[str]:
        return [name for name, _ in self.plane.calls
                if name not in ("server.show", "op.list", "server.actions")]

    def test_offloaded_after_it_is_shelved(self):
        for states, asked in (
            (("active", "shelved", "shelved_offloaded"),
             ["server.shelve", "server.shelve_offload"]),
            (("shelved", "shelved_offloaded"), ["server.shelve_offload"]),
            (("active", "shelved_offloaded"), ["server.shelve"]),
        ):
            self.plane.calls.clear()
            self.plane.script("server.show", *(server(vm_state=state) for state in states))
            code, _, err = self.run_cli("server", "shelve", "--offload", "--wait", "web")
            self.assertEqual((0, asked), (code, self.methods()), err)

    def test_one_that_failed_does_not_keep_the_others_from_it(self):
        self.plane.answers["server.show"] = server(vm_state="active")
        code, _, err = self.run_cli("server", "shelve", "--wait", "web", "web")
        self.assertEqual((1, ["server.shelve"] * 2), (code, self.methods()))
        self.assertIn("did not become shelved or shelved_offloaded", err)
