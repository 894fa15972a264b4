"""The commands that tend to servers: what they ask for, and what they say."""

from __future__ import annotations

from tests.functional.test_cli_moves import WEB, Base

FIGURES = {"state": "running", "num_cpus": 1, "memory_details": {"maximum": 64, "used": 60},
           "cpu_details": [{"id": 0, "time": 5, "utilisation": None}]}


class WordsTest(Base):
    def test_each_command_makes_its_call(self):
        web, asked = {"server": WEB}, {"server": "web", "image": None, "password": None}
        self.plane.answers["server.rescue"] = {"id": WEB, "name": "web", "admin_pass": "made-up"}
        self.plane.answers["server.diagnostics"] = FIGURES
        for words, method, args in (
            ("server dump create web", "server.dump", web),
            ("server rescue web", "server.rescue", asked),
            ("server rescue --image tools --password p web", "server.rescue",
             {**asked, "image": "tools", "password": "p"}),
            ("server unrescue web", "server.unrescue", web),
            ("server set --password p web", "server.set_password",
             {"server": "web", "password": "p"}),
            ("server diagnostics show web", "server.diagnostics", {"server": "web"}),
            ("server show --diagnostics web", "server.diagnostics", {"server": "web"}),
        ):
            made = {k: v for k, v in args.items() if v is not None}
            method_made, args_made = self.last_call(*words.split())
            self.assertEqual((method, made), (method_made, {
                k: v for k, v in args_made.items() if v is not None}), words)

    def test_a_password_that_was_made_up_is_said_once(self):
        self.plane.answers["server.rescue"] = {"id": WEB, "name": "web", "admin_pass": "made-up"}
        self.assertIn("made-up", self.ok("server", "rescue", "web"))
        self.assertEqual("", self.ok("server", "rescue", "--password", "mine", "web"))

    def test_what_servers_use_is_listed_in_units_of_people(self):
        self.plane.answers["server.usage_list"] = [{
            "id": WEB, "name": "web", "host": "h1", "cpu_ns": 1_500_000_000, "memory": 65536,
            "resident": 2048, "disk_bytes": 3 << 20, "read_bytes": 1 << 19, "write_bytes": 0,
            "rx_bytes": 0, "tx_bytes": 0}]
        words = self.ok("server", "usage", "list").split()
        for figure in ("web", "h1", "1.5", "64", "2", "3.0", "0.5"):
            self.assertIn(figure, words)
        self.assertEqual(("server.usage_list", {"host": "h1"}),
                         self.last_call("server", "usage", "list", "--host", "h1"))

    def test_figures_are_shown(self):
        self.plane.answers["server.diagnostics"] = FIGURES
        shown = self.ok("server", "diagnostics", "show", "web")
        self.assertIn("maximum", shown)
        self.assertIn("num_cpus", shown)

    def test_wrong_usage(self):
        for words in ("server dump create", "server rescue", "server rescue a b",
                      "server unrescue", "server set web", "server set --password p",
                      "server dump create --wait web"):
            code, _, _ = self.run_cli(*words.split())
            self.assertEqual((2, words), (code, words))
