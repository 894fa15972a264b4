"""Networks and addresses: given out once, the same again when asked again, free when deleted."""

import concurrent.futures
import itertools

from compute.errors import MagnetarError, Refused
from compute.model.guest import Nic
from db.control import networks
from tests.functional.control_support import ControlTest
from tests.modes import DATABASE, once
from tests.waiting import wait_until


class NetworksTest(ControlTest):
    def refused(self, code, function, *args, **kwargs):
        error = self.assertRaises(MagnetarError, function, *args, **kwargs)
        self.assertEqual(code, error.code, error)
        return error

    def test_each_host_that_is_up_makes_it_and_removes_it(self):
        agents = [self.agent("host1"), self.agent("host2")]
        made = self.control.network_create("net", "192.0.2.0/24", nat=True)
        self.assertEqual(("active", "192.0.2.1", "network"),
                         (made["status"], made["gateway"], made["kind"]))
        for agent in agents:
            [(_, args)] = agent.got("create_network")
            self.assertEqual(
                ("net", "192.0.2.0/24", "192.0.2.1", "192.0.2.2", "192.0.2.254"),
                tuple(args["network"][n] for n in ("name", "cidr", "gateway", "dhcp_start",
                                                   "dhcp_end")),
            )
        self.control.network_delete("net")
        for agent in agents:
            self.assertEqual({"name": "net"}, agent.got("delete_network")[0][1])
        self.assertEqual([], self.control.network_list())

    def test_when_a_host_refuses_nothing_stays(self):
        good, bad = self.agent("host1"), self.agent("host2")

        def refuse(agent, context, args):
            raise Refused("The range is in use.", code="network_conflict")

        bad.script["create_network"] = refuse
        error = self.refused("network_conflict", self.control.network_create, "net", "192.0.2.0/24")
        self.assertIn("in use", error.what)
        self.assertEqual([], self.control.network_list())
        self.assertEqual({"name": "net"}, good.got("delete_network")[0][1])

    def test_a_bridge_is_never_deleted(self):
        host = self.agent()
        self.control.network_create("lan", "192.0.2.0/24", bridge="br0")
        self.assertEqual("br0", host.got("create_network")[0][1]["network"]["bridge"])
        self.control.network_delete("lan")
        self.assertEqual([], [m for m in host.received if m[0] == "delete_network"])

    def test_a_bridge_may_be_one_of_open_vswitch(self):
        host = self.agent()
        made = self.control.network_create("lan", "192.0.2.0/24", bridge="br-int", ovs=True)
        asked = host.got("create_network")[0][1]["network"]
        self.assertEqual(("ovs", "br-int", "ovs"), (made["kind"], asked["bridge"], asked["kind"]))
        error = self.refused("bad_network", self.control.network_create, "other",
                             "198.51.100.0/24", ovs=True)
        self.assertIn("Name the bridge too", str(error))

    def test_names_and_ranges_are_taken_once(self):
        self.control.network_create("net", "192.0.2.0/24")
        self.refused("network_exists", self.control.network_create, "net", "198.51.100.0/24")
        self.refused("network_overlaps", self.control.network_create, "b", "192.0.2.128/25")
        self.refused("network_not_found", self.control.network_delete, "nope")

    def test_what_a_dead_process_began_is_removed_at_start(self):
        host = self.agent()
        self.control.network_create("good", "198.51.100.0/24")
        self.control.network_create("half", "192.0.2.0/24")
        with self.control.store.begin() as connection:
            [row] = networks.find(connection, "half")
            networks.set_status(connection, row["uuid"], "creating")
        self.refused("network_not_active", self.control._networks, ["half"])
        self.control.stop()
        self.control = self.start_control()
        wait_until(lambda: [n["name"] for n in self.control.network_list()] == ["good"])
        self.assertEqual({"name": "half"}, host.got("delete_network")[0][1])

    def test_hosts_that_come_later_learn_of_it(self):
        self.control.network_create("net", "192.0.2.0/24")
        [found] = self.agent().own("network_list")
        self.assertEqual(("net", "network", "192.0.2.0/24"),
                         (found["name"], found["kind"], found["cidr"]))


class AddressesTest(ControlTest):
    def setUp(self):
        super().setUp()
        self.host = self.agent()
        self.host.script.pop("build_and_run_instance")
        self.prepare(ram=1)
        self.net = self.control.network_create("net", "192.0.2.0/28")  # 13 servers
        self.servers = []

    def server(self):
        number = len(self.servers)
        # one after the other is taken up, so that the host does not count as busy
        made = self.create(f"s{number}", networks=["net"])
        self.servers.append(made["id"])
        instance = self.host.ask("Instance.get_by_uuid", made["id"])
        self.host.save(instance, vm_state="active", task_state=None)
        return made["id"]

    def allocate(self, server, *requests, **kwargs):
        requests = requests or ({"network_id": self.net["id"]},)
        return self.host.own("network_allocate", instance_uuid=server, requests=list(requests),
                             host="host1", **kwargs)

    def test_asked_again_it_gives_the_same(self):
        server = self.server()
        first = self.allocate(server)
        self.assertEqual(first, self.allocate(server))
        self.assertEqual(first, self.host.own("network_nics", instance_uuid=server))
        self.assertEqual(1, self.control.network_show("net")["ports"])

    def test_a_nic_has_the_fields_of_the_agents_model(self):
        [nic] = self.allocate(self.server())
        model = Nic.from_plain(nic)
        self.assertEqual(("net", "network", "net", "192.0.2.2", "192.0.2.0/28", "192.0.2.1"), (
            model.label, model.kind, model.source, model.addresses[0].address,
            model.addresses[0].cidr, model.addresses[0].gateway,
        ))
        self.assertRegex(model.mac, "^fa:16:3e")

    def test_more_nics_can_be_had_and_have_their_order(self):
        server = self.server()
        found = self.allocate(
            server, {"network_id": self.net["id"], "fixed_ip": "192.0.2.9", "tag": "a"},
            {"network_id": self.net["id"]}, macs=["fa:16:3e:00:00:09"],
        )
        self.assertEqual(["192.0.2.9", "192.0.2.2"], [n["addresses"][0]["address"] for n in found])
        self.assertEqual(("a", "fa:16:3e:00:00:09"), (found[0]["tag"], found[0]["mac"]))

    def test_an_address_is_given_once(self):
        self.allocate(self.server(), {"network_id": self.net["id"], "fixed_ip": "192.0.2.9"})
        error = self.assertRaises(
            Refused, self.allocate, self.server(),
            {"network_id": self.net["id"], "fixed_ip": "192.0.2.9"},
        )
        self.assertEqual("address_in_use", error.code)
        self.assertEqual("network_missing", self.assertRaises(
            Refused, self.allocate, self.servers[-1], {"network_id": "nope"}).code)

    def test_many_at_once_get_different_ones_until_there_are_no_more(self):
        servers = [self.server() for _ in range(14)]

        def one(server):
            try:
                return [nic["addresses"][0]["address"] for nic in self.allocate(server)]
            except Refused as error:
                return [error.code]

        with concurrent.futures.ThreadPoolExecutor(14) as pool:
            found = list(itertools.chain.from_iterable(pool.map(one, servers)))
        self.assertEqual(1, found.count("no_more_addresses"))
        self.assertEqual({f"192.0.2.{n}" for n in range(2, 15)} | {"no_more_addresses"}, set(found))

    def test_deallocate_frees_and_may_be_repeated(self):
        server = self.server()
        self.allocate(server)
        error = self.assertRaises(Refused, self.control.network_delete, "net")
        self.assertEqual("network_in_use", error.code)
        self.assertEqual(1, self.host.own("network_deallocate", instance_uuid=server))
        self.assertEqual(0, self.host.own("network_deallocate", instance_uuid=server))
        self.control.network_delete("net")

    def test_a_deleted_server_keeps_no_address(self):
        server = self.server()
        self.allocate(server)
        self.control.server_delete(server)
        wait_until(lambda: self.control.network_show("net")["ports"] == 0)


@once(DATABASE)
class PostgreSQLAddressesTest(AddressesTest):
    database = "postgresql"
