"""Figures and health of an agent, as a monitoring system reads them."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request

from compute.errors import Failed, NeedsOperator, Unknown
from compute.model import states
from compute.operator.listener import Listener
from tests.functional.agent_support import Once, SharedTest
from tests.waiting import PATIENCE

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)+)\})? ([-+.e0-9]+)')


class MetricsTest(SharedTest):
    options = {"metrics__listen": "127.0.0.1:0"}

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of an answer."""
        url = f"http://127.0.0.1:{self.host.agent.listener.port}{path}"

        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def figures(self) -> dict[tuple[str, str], float]:
        """All samples, by name and labels; each has its HELP and TYPE before it."""
        status, text = self.get("/metrics")
        self.assertEqual(200, status)
        found, known = {}, set()
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                known.add(line.split()[2])
            if line.startswith("#"):
                continue
            match = SAMPLE.fullmatch(line)
            self.assertIsNotNone(match, line)
            name, labels, value = match.groups()
            self.assertIn(re.sub("_(bucket|sum|count)$", "", name), known | {name} & known, line)
            self.assertNotIn((name, labels or ""), found, line)
            found[name, labels or ""] = float(value)
        return found

    def test_operations_guests_resources_and_use(self):
        before = self.figures()
        uuid = self.cloud.boot("counted")
        self.host.hook = Once("pause", lambda: Failed("It cannot.", code="unsupported"))
        self.control.server_pause(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.host.at_rest()
        now = self.figures()

        def grown(name: str, labels: str) -> float:
            return now[name, labels] - before.get((name, labels), 0)

        self.assertEqual(1, grown("magnetar_operations_ended_total", 'verb="spawn",state="done"'))
        self.assertEqual(1, grown("magnetar_operations_ended_total",
                                  'verb="pause",state="undone"'))
        self.assertEqual(1, grown("magnetar_operation_seconds_bucket", 'verb="spawn",le="+Inf"'))
        self.assertEqual(1, grown("magnetar_operation_seconds_count", 'verb="spawn"'))
        self.assertEqual(1, grown("magnetar_guests", 'power_state="running"'))
        self.assertEqual(64, grown("magnetar_resource_used", 'resource="memory_mb"'))
        self.assertEqual(32768, now["magnetar_resource_total", 'resource="memory_mb"'])
        self.assertGreater(now["magnetar_journal_bytes", ""], 4096)
        for part in ("hypervisor", "control_plane"):
            self.assertEqual(1, now["magnetar_reachable", f'part="{part}"'])
        self.assertEqual(64 << 20, now["magnetar_guest_memory_bytes", f'guest="{uuid}"'])
        self.assertIn(("magnetar_guest_cpu_seconds_total", f'guest="{uuid}"'), now)
        [use] = [one for one in self.control.server_usage_list("host1") if one["id"] == uuid]
        self.assertEqual(("counted", "host1", 65536), (use["name"], use["host"], use["memory"]))
        self.cloud.set(metrics__guests=False)
        self.addCleanup(self.cloud.set, metrics__guests=True)
        self.assertNotIn(("magnetar_guest_memory_bytes", f'guest="{uuid}"'), self.figures())

    def test_what_goes_on_is_told_by_its_step(self):
        uuid = self.cloud.boot("moves")
        self.control.flavor_create("larger", vcpus=1, ram=128, disk=1)
        self.cloud.set(control__allow_resize_to_same_host=True)
        self.addCleanup(self.cloud.conf.conf.clear_override, "allow_resize_to_same_host", "control")
        self.control.server_resize(uuid, "larger")
        self.cloud.wait_for(uuid, states.RESIZED)
        self.host.at_rest()
        phases = {labels for name, labels in self.figures()
                  if name == "magnetar_move_phase_seconds_count"}
        self.assertIn('verb="resize_out",phase="aside"', phases)
        self.control.server_resize_confirm(uuid)
        self.cloud.wait_for(uuid, states.ACTIVE)
        self.host.at_rest()

    def test_health_and_its_reasons(self):
        status, text = self.get("/healthz")
        told = json.loads(text)
        self.assertEqual((200, True, "serving", "host1", 0), (
            status, told["healthy"], told["status"], told["host"], told["needs_operator"]))
        self.patch(self.host.driver, "connected", lambda: False)

        def away(seconds: float) -> None:
            raise Unknown("Nobody answers.", now="It is tried again.", code="broker_silent")

        self.patch(self.host.agent.conductor, "ping", away)
        status, text = self.get("/healthz")
        reasons = {one["check"]: one["reason"] for one in json.loads(text)["checks"]
                   if not one["ok"]}
        self.assertEqual((503, {"hypervisor", "control_plane"}), (status, set(reasons)))
        self.assertIn("does not answer", reasons["hypervisor"])
        figures = self.figures()
        self.assertEqual(0, figures["magnetar_reachable", 'part="hypervisor"'])
        self.assertNotIn("magnetar_guests", {name for name, _ in figures})

    def test_nothing_else_is_there(self):
        for path in ("/", "/v1/health", "/metrics/more"):
            self.assertEqual(404, self.get(path)[0])
        self.assertEqual(200, self.get("/metrics?x=1")[0])

    def test_it_ends_with_the_agent_and_comes_back(self):
        url = f"http://127.0.0.1:{self.host.agent.listener.port}/metrics"
        self.host.restart()
        self.assertRaises(urllib.error.URLError, urllib.request.urlopen, url, timeout=PATIENCE)
        self.assertEqual(200, self.get("/metrics")[0])

    def test_addresses_that_cannot_be(self):
        taken = f"127.0.0.1:{self.host.agent.listener.port}"
        for address in ("9178", "localhost:http", "127.0.0.1:70000", ":1", taken):
            error = self.assertRaises(
                NeedsOperator, lambda a=address: Listener(a, str, dict).start())
            self.assert_speaks(error)

    def test_by_default_nothing_listens(self):
        self.cloud.set(metrics__listen="")
        self.addCleanup(self.cloud.set, metrics__listen="127.0.0.1:0")
        self.host.restart()
        self.assertIsNone(self.host.agent.listener)
        self.cloud.set(metrics__listen="127.0.0.1:0")
        self.host.restart()
