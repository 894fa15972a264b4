"""The commands that tend to servers: what they ask for, and what they say."""

from __future__ import annotations

from tests.functional.test_cli_moves import WEB, Base


class WordsTest(Base):
    def test_each_command_makes_its_call(self):
        web, asked = {"server": WEB}, {"server": "web", "image": None, "password": None}
        self.plane.answers["server.rescue"] = {"id": WEB, "name": "web", "admin_pass": "made-up"}
        for words, method, args in (
            ("server dump create web", "server.dump", web),
            ("server rescue web", "server.rescue", asked),
            ("server rescue --image tools --password p web", "server.rescue",
             {**asked, "image": "tools", "password": "p"}),
            ("server unrescue web", "server.unrescue", web),
        ):
            made = {k: v for k, v in args.items() if v is not None}
            method_made, args_made = self.last_call(*words.split())
            self.assertEqual((method, made), (method_made, {
                k: v for k, v in args_made.items() if v is not None}), words)

    def test_a_password_that_was_made_up_is_said_once(self):
        self.plane.answers["server.rescue"] = {"id": WEB, "name": "web", "admin_pass": "made-up"}
        self.assertIn("made-up", self.ok("server", "rescue", "web"))
        self.assertEqual("", self.ok("server", "rescue", "--password", "mine", "web"))

    def test_wrong_usage(self):
        for words in ("server dump create", "server rescue", "server rescue a b",
                      "server unrescue", "server dump create --wait web"):
            code, _, _ = self.run_cli(*words.split())
            self.assertEqual((2, words), (code, words))
