"""Ports that exist by themselves: made, given to one server at a time, and free again."""

from __future__ import annotations

import concurrent.futures

from compute.errors import MagnetarError, Refused
from tests.functional.control_support import ControlTest, terminate
from tests.modes import DATABASE, once
from tests.waiting import wait_until


class PortsTest(ControlTest):
    def setUp(self) -> None:
        super().setUp()
        self.host = self.agent()
        self.prepare(ram=1)
        self.net = self.control.network_create("net", "192.0.2.0/28")

    def refused(self, code, function, *args, **kwargs):
        error = self.assertRaises(MagnetarError, function, *args, **kwargs)
        self.assertEqual(code, error.code, error)
        for text in (error.what, error.now, error.next):
            self.assertTrue(text, error.to_dict())
        return error

    def port(self, name: str = "spare") -> dict:
        return self.control.port_show(name)

    def test_it_is_made_shown_and_deleted(self):
        made = self.control.port_create("spare", "net", "192.0.2.9", "FA-16-3E-00-00-09")
        self.assertEqual(
            {"name": "spare", "network": "net", "network_id": self.net["id"],
             "address": "192.0.2.9", "mac": "fa:16:3e:00:00:09", "server": None,
             "server_id": None, "status": "down", "kept": True, "tag": None, "host": None},
            {name: value for name, value in made.items() if name not in ("id", "created_at")})
        self.assertEqual([made], self.control.port_list())
        self.assertEqual([made], self.control.port_list(network="net"))
        self.assertEqual(made, self.control.port_show(made["id"]))
        self.refused("network_in_use", self.control.network_delete, "net")
        self.control.port_delete("spare")
        self.assertEqual([], self.control.port_list())
        self.refused("port_not_found", self.control.port_delete, "spare")
        self.control.network_delete("net")

    def test_addresses_that_cannot_be_had(self):
        self.control.port_create("spare", "net", "192.0.2.9", "fa:16:3e:00:00:09")
        create = self.control.port_create
        self.refused("address_in_use", create, "two", "net", "192.0.2.9")
        self.refused("bad_address", create, "two", "net", "198.51.100.1")
        self.refused("mac_in_use", create, "two", "net", None, "fa:16:3e:00:00:09")
        for mac in ("fa:16:3e:00:00", "01:00:5e:00:00:01", "fe:16:3e:00:00:01",
                    "00:00:00:00:00:00", "gg:16:3e:00:00:01"):
            self.refused("bad_mac", create, "two", "net", None, mac)
        self.refused("bad_name", create, " ", "net")
        self.refused("network_not_found", create, "two", "nix")
        self.assertEqual(1, len(self.control.port_list()))
        for number in range(12):
            create(f"p{number}", "net")
        self.refused("no_more_addresses", create, "two", "net")

    def test_two_of_one_name_are_told_apart_by_id(self):
        first, second = (self.control.port_create("twin", "net") for _ in range(2))
        self.refused("ambiguous", self.control.port_delete, "twin")
        self.control.port_delete(first["id"])
        self.assertEqual(second, self.port("twin"))

    def test_a_server_is_made_with_it_and_leaves_it_behind(self):
        spare = self.control.port_create("spare", "net")
        server = self.active(networks=["net", {"port": "spare", "tag": "front"}])
        have = self.control.server_ports("one")
        self.assertEqual((2, spare["id"], "front"), (len(have), have[1]["id"], have[1]["tag"]))
        self.assertIn(spare["address"], server["addresses"]["net"])
        self.assertEqual(("one", server["id"], "active", "host1"), tuple(
            self.port()[name] for name in ("server", "server_id", "status", "host")))
        self.assertEqual(2, len(self.control.port_list(server="one")))
        self.refused("port_in_use", self.control.port_delete, "spare")
        self.control.server_delete("one")
        wait_until(lambda: self.port()["status"] == "down")
        self.assertEqual([spare], self.control.port_list())

    def test_what_cannot_be_asked_for(self):
        spare = self.control.port_create("spare", "net")
        self.control.network_create("other", "198.51.100.0/24")
        for code, wish in (
                ("port_not_found", [{"port": "nix"}]), ("bad_value", [{"port": 5}]),
                ("bad_value", [{"port": "spare", "fixed_ip": spare["address"]}]),
                ("bad_value", [{"port": "spare"}, {"port": spare["id"]}]),
                ("wrong_network", [{"port": "spare", "network": "other"}])):
            self.refused(code, self.create, networks=wish)
        self.active("first", networks=[{"port": "spare", "network": "net"}])
        error = self.refused("port_in_use", self.create, "second", networks=[{"port": "spare"}])
        self.assertIn("first", error.what)
        self.refused("port_in_use", self.control.server_add_port, "first", "spare")
        self.refused("port_not_found", self.control.server_add_port, "first", "nix")
        self.assertEqual(["first"], [one["name"] for one in self.control.server_list()])

    def test_the_same_request_again_is_the_same_server(self):
        self.control.port_create("spare", "net")
        made = [self.create(networks=[{"port": "spare"}], request_id="req-one")["id"]
                for _ in range(2)]
        self.assertEqual(1, len(set(made)))

    def test_one_of_many_servers_gets_it(self):
        self.control.port_create("spare", "net")
        server = self.active("a", networks=[])

        def take(_):
            try:
                return self.host.own("network_attach", instance_uuid=server["id"], port="x",
                                     request=self.request(port_id="x"), host="host1")
            except Refused as error:
                return error.code

        self.assertEqual("port_missing", take(None)["error"]["code"])
        self.control.flavor_create("tinier", vcpus=1, ram=1, disk=1)

        def one(number):
            try:
                return self.control.server_create(f"s{number}", "tiny", "tinier",
                                                  networks=[{"port": "spare"}])["name"]
            except Refused as error:
                return error.code

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            found = list(pool.map(one, range(4)))
        self.assertEqual(3, found.count("port_in_use"), found)
        [winner] = set(found) - {"port_in_use"}
        self.assertEqual(winner, self.port()["server"])

    def request(self, **more) -> dict:
        return {"network_id": None, "port_id": None, "fixed_ip": None, "tag": None, **more}

    def attach(self, server: str, **request) -> dict:
        return self.host.own("network_attach", instance_uuid=server, port=request["port_id"],
                             request=self.request(**request), host="host1")

    def test_what_a_host_asks_for(self):
        spare = self.control.port_create("spare", "net")
        servers = [self.active(name, networks=[])["id"] for name in ("a", "b")]
        wrong = self.attach(servers[0], port_id=spare["id"], network_id="elsewhere")
        self.assertEqual("wrong_network", wrong["error"]["code"])
        nic = self.attach(servers[0], port_id=spare["id"])["nic"]
        self.assertEqual((spare["id"], spare["mac"], True), (nic["id"], nic["mac"], nic["kept"]))
        self.assertEqual(nic, self.attach(servers[0], port_id=spare["id"])["nic"])
        self.assertEqual("port_in_use", self.attach(
            servers[1], port_id=spare["id"])["error"]["code"])
        detach = {"instance_uuid": servers[1], "port": spare["id"]}
        self.assertEqual(0, self.host.own("network_detach", **detach))
        self.assertEqual("a", self.port()["server"])
        self.assertEqual(1, self.host.own("network_detach", **{
            **detach, "instance_uuid": servers[0]}))
        self.assertEqual(spare, self.port())
        self.attach(servers[1], port_id=spare["id"])
        self.assertEqual("b", self.port()["server"])

    def test_a_build_that_is_given_up_frees_it(self):
        """The host gave the port back; the next one takes it again, unless another server has."""
        spare = self.control.port_create("spare", "net")
        self.host.script.pop("build_and_run_instance")
        server = self.create(networks=[{"port": "spare"}])["id"]
        request = self.request(port_id=spare["id"], network_id=self.net["id"])
        again = {"instance_uuid": server, "requests": [request], "host": "host1"}
        self.assertEqual(1, self.host.own("network_deallocate", instance_uuid=server))
        [nic] = self.host.own("network_allocate", **again)
        self.assertEqual(spare["id"], nic["id"])
        self.control.builds.give_up(server, "No host could.")
        self.assertEqual(spare, self.port())
        self.host.script["terminate_instance"] = terminate
        self.control.server_delete(server)
        self.assertEqual(spare, self.port())


@once(DATABASE)
class PostgreSQLPortsTest(PortsTest):
    database = "postgresql"
