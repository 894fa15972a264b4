"""Images that hosts fetch before a server needs them."""

from __future__ import annotations

import threading

from oslo_config import cfg

from compute import conf as compute_conf
from compute.errors import Failed, Refused
from compute.rpc.serializer import admin_context
from tests.functional.agent_support import Gate, Once, SharedTest
from tests.functional.control_support import ControlTest
from tests.functional.test_cli_moves import Base
from tests.modes import DATABASE, once
from tests.waiting import PATIENCE, wait_until


class AgentCacheTest(SharedTest):
    def cache(self, *ids: str) -> dict[str, str]:
        return self.cloud.client().call(admin_context(), "cache_images", image_ids=list(ids))

    def image(self, name: str) -> str:
        path = f"{self.cloud.root}/{name}"
        with open(path, "wb") as file:
            file.truncate(1 << 20)
        return self.control.image_create(name, path, disk_format="raw")["id"]

    def test_each_is_told_in_novas_words(self):
        one, two = self.image("one"), self.image("two")
        self.assertEqual({one: "cached"}, self.cache(one))
        self.host.hook = Once("fetch_image", lambda: Failed("The disk is full.", code="full"))
        self.assertEqual({one: "existing", two: "error", "nix": "error"},
                         self.cache(one, two, "nix"))
        self.assertEqual({two: "cached"}, self.cache(two))
        self.assertEqual({}, self.host.agent.world.fetches)

    def test_a_server_finds_it_there(self):
        self.cache(self.image("ready"))
        before = self.host.driver.calls.get("fetch_image", 0)
        self.control.server_create("quick", "ready", "small", networks="none")
        wait_until(lambda: self.control.server_show("quick")["status"] == "ACTIVE")
        self.assertEqual(before, self.host.driver.calls.get("fetch_image", 0))

    def test_how_far_it_is_and_that_it_is_begun_once(self):
        image = self.image("slow")
        self.host.hook = gate = Gate("fetch_image")
        [row] = self.control.image_cache(["host1"], ["slow"])
        self.assertIn(row["state"], ("queued", "fetching"))
        gate.wait()
        [again] = self.control.image_cache(["host1", "host1"], ["slow", image])
        self.assertEqual("fetching", again["state"])
        [seen] = [one for one in self.control.image_cache_list() if one["image_id"] == image]
        self.assertEqual((0, 1 << 20), (seen["done"], seen["total"]))
        gate.open = True
        wait_until(lambda: self.state(image) == "cached")
        self.control.image_cache(["host1"], ["slow"])
        wait_until(lambda: self.state(image) == "existing")

    def state(self, image: str) -> str:
        return next(one["state"] for one in self.control.image_cache_list()
                    if one["image_id"] == image)

    def test_nothing_is_begun_for_what_is_not_there(self):
        for hosts, images, code in ((["host1", "nix"], ["tiny"], "host_not_found"),
                                    (["host1"], ["tiny", "nix"], "image_not_found")):
            error = self.assertRaises(Refused, self.control.image_cache, hosts, images)
            self.assertEqual(code, error.code)
            self.assert_speaks(error)
        self.assertNotIn("tiny", [row["image"] for row in self.control.image_cache_list()])


@once(DATABASE)
class LimitTest(ControlTest):
    at_once = 1

    def setUp(self) -> None:
        compute_conf.register(cfg.CONF)
        cfg.CONF.set_override("precache_concurrency", self.at_once, "image_cache")
        self.addCleanup(cfg.CONF.clear_override, "precache_concurrency", "image_cache")
        super().setUp()

    def test_so_many_hosts_at_once(self):
        hosts = [self.agent(f"host{number}") for number in (1, 2, 3)]
        self.prepare()
        working, most, go_on = set(), [], threading.Event()

        def fetch(agent, context, args):
            working.add(agent.host)
            most.append(len(working))
            go_on.wait(PATIENCE)
            working.discard(agent.host)
            return dict.fromkeys(args["image_ids"], "cached" if agent.host != "host3" else "error")

        for host in hosts:
            host.script |= {"cache_images": fetch, "image_fetches": lambda *args: {}}
        self.control.image_cache([host.host for host in hosts], ["tiny"])
        wait_until(lambda: len(most) == self.at_once)
        go_on.set()
        wait_until(lambda: {row["state"] for row in self.control.image_cache_list()}
                   <= {"cached", "error"})
        self.assertEqual(self.at_once, max(most))
        [bad] = [row for row in self.control.image_cache_list() if row["state"] == "error"]
        self.assertEqual("host3", bad["host"])
        self.assertIn("its log says why", bad["error"])


class TwoAtOnceTest(LimitTest):
    at_once = 2


class WordsTest(Base):
    ROW = {"host": "h1", "image_id": "i", "image": "tiny", "state": "cached", "error": None,
           "done": None, "total": None}

    def test_the_command_waits_and_tells(self):
        begun = {**self.ROW, "state": "fetching"}
        self.plane.answers["image.cache"] = [begun]
        self.assertIn("fetching", self.ok("image", "cache", "h1", "tiny"))
        self.assertEqual(("image.cache", {"hosts": ["h1", "h2"], "images": ["tiny"]}),
                         self.last_call("image", "cache", "h1", "h2", "tiny"))
        self.plane.answers["image.cache_list"] = [self.ROW]
        self.assertIn("cached", self.ok("image", "cache", "--wait", "h1", "tiny"))
        self.assertIn("cached", self.ok("image", "cache", "list"))
