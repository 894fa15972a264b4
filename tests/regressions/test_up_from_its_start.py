"""A host whose agent was away, or was killed again and again before its first heartbeat, counts as
up as soon as its agent serves: a request that came then was refused with "no valid host"."""

import datetime

from db.control import services
from tests.functional.agent_support import AgentTest

LONG_AGO = datetime.datetime(2026, 1, 1)


class UpFromItsStartTest(AgentTest):
    hosts = 0

    def test_it_is_up_before_its_first_heartbeat(self):
        self.cloud.set(report_interval=3600)
        host = self.cloud.add_host("host1")
        with self.control.store.begin() as connection:
            service = services.get(connection, "host1")
            services.save(connection, service["id"],
                          {"last_seen_up": LONG_AGO, "created_at": LONG_AGO})
        self.assertEqual("down", self.control.host_show("host1")["state"])
        host.restart()
        self.assertEqual("up", self.control.host_show("host1")["state"])
