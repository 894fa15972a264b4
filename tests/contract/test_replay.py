"""Captured messages of a stock Nova, replayed into our agent in one process.

Each cast that a stock conductor or API sent is sent again, byte for byte but for the guest's uuid;
what our agent then asks the conductor has to be what Nova's own agent might have asked.
"""

import dataclasses
import json
import pathlib
import subprocess
import time
import typing

import fixtures
import oslo_messaging as messaging
import testtools

from compute import agent, conf
from compute.rpc.exceptions import nova_exception
from compute.services import images
from tests.contract import legal, processes, replay_conductor, wire

HOST = "lab1"
SECONDS = processes.SECONDS
REGISTRATION = "service_first_registration"
BUILD = "build_no_network"
# Methods that other parts follow, and of how many parts each consists: events that end.
PARTS = {"prep_resize": 3, "revert_resize": 2}
PAUSED, SUSPENDED, RESIZED = (("pause", "pause_instance"), ("suspend", "suspend_instance"),
                              ("resize", "prep_resize"))
RESCUED = ("rescue", "rescue_instance")


def guest_of(capture: wire.Capture) -> str:
    """Return the uuid of the guest that a capture is about."""
    message = next(m for m in capture.to_compute() if "instance" in m.args)
    return message.args["instance"]["nova_object.data"]["uuid"]


def renamed(message: wire.Message, old: str, new: str) -> wire.Message:
    """Return the message about another guest."""
    values = json.loads(json.dumps(vars(message)).replace(old, new))
    return wire.Message(**values)


class ReplayTest(testtools.TestCase):
    """An agent on the fake driver, a replaying conductor, and a client that sends captures."""

    def setUp(self) -> None:
        super().setUp()
        home = self.home = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        path = home / "agent.conf"
        path.write_text(f"[DEFAULT]\nhost = {HOST}\nstate_path = {home}\ntransport_url = inproc://\n"
                        "compute_driver = fake\nreport_interval = 3600\n")
        captured = wire.load(BUILD).cast("build_and_run_instance").args["image"]
        disk = str(home / "disk")
        subprocess.run(["qemu-img", "create", "-q", "-f", captured["disk_format"], disk, "1M"],
                       check=True)
        self.images = images.LocalImages(str(home / "images"))
        self.images.create(
            disk, disk_format=captured["disk_format"], image_id=captured["id"])
        messaging.set_transport_defaults("nova")
        configuration = conf.parse(["--config-file", str(path)])
        self.addCleanup(configuration.reset)
        transport = messaging.get_rpc_transport(configuration, url="inproc://")
        self.addCleanup(transport.cleanup)
        conductor = replay_conductor.ReplayConductor(transport, REGISTRATION, *wire.names())
        conductor.start()
        self.addCleanup(conductor.stop)
        self.kept = conductor.kept
        self.client = messaging.get_rpc_client(transport, messaging.Target(topic="compute"))
        self.agent = agent.Agent(configuration, transport)
        self.addCleanup(self.agent.stop)
        self.agent.start()

    def send(self, message: wire.Message) -> typing.Any:
        """Send a captured message to our agent as it was sent to Nova's."""
        topic = message.to.partition(".")[0]
        client = self.client.prepare(topic=topic, server=HOST, version=message.version,
                                     namespace=message.namespace)
        return getattr(client, message.kind)(message.context, message.method, **message.args)

    def replay(self, name: str, method: str, after: tuple[tuple[str, str], ...] = (),
               ) -> list[wire.Message]:
        """Replay one cast about an existing guest; return what the conductor was told.

        :param after: casts that are replayed before, for what the guest is by then.
        """
        capture = wire.load(name)
        cast = capture.cast(method)
        if method != "build_and_run_instance":
            self.build(guest_of(capture))
        for earlier in after:
            self._take_and_send(wire.load(earlier[0]).cast(earlier[1]))
        self._take_and_send(cast)
        return self.kept.said()

    def _take_and_send(self, cast: wire.Message) -> None:
        self.kept.take(cast.args)
        self.send(cast)
        self.wait_for_end(PARTS.get(cast.method, 1))

    def build(self, uuid: str) -> None:
        """Replay the captured build, for a guest with this uuid."""
        capture = wire.load(BUILD)
        self._take_and_send(
            renamed(capture.cast("build_and_run_instance"), guest_of(capture), uuid))
        self.assertEqual("active", self.kept.fields["vm_state"])

    def wait_for_end(self, ends: int = 1) -> None:
        """Wait until the conductor is told that the action's events ended."""
        deadline = time.monotonic() + SECONDS
        while len(self.kept.said("InstanceActionEvent.event_finish_with_failure")) < ends:
            if time.monotonic() > deadline:
                self.fail(f"No end in {SECONDS} s; heard {[m.what for m in self.kept.said()]}")
            time.sleep(0.02)

    def assert_legal(self, name: str, said: list[wire.Message]) -> None:
        """Fail with every way in which these messages are not what Nova's agent might send."""
        problems = legal.problems(wire.load(name), said)
        if problems:
            self.fail(f"{name}:\n" + "\n".join(problems))

    def assert_ends_as_captured(self, name: str) -> None:
        """The states that our agent left are those that Nova's left."""
        self.assertEqual(legal.final_states(wire.load(name)),
                         {key: self.kept.fields[key] for key in legal.STATES})

    def test_build(self) -> None:
        said = self.replay(BUILD, "build_and_run_instance")
        self.assert_legal(BUILD, said)
        self.assert_ends_as_captured(BUILD)
        self.assertEqual(HOST, self.kept.fields["host"])
        self.assertEqual(HOST, self.kept.fields["launched_on"])

    def test_build_tells_the_conductor_less_often_than_nova(self) -> None:
        said = self.replay(BUILD, "build_and_run_instance")
        self.assertLess(len(said), len(wire.load(BUILD).calls()))

    def test_same_build_sent_twice_is_one_build(self) -> None:
        cast = wire.load(BUILD).cast("build_and_run_instance")
        self.kept.take(cast.args)
        self.send(cast)
        self.send(cast)
        self.wait_for_end()
        self.send(cast)
        self.send(wire.load(BUILD).cast("build_and_run_instance"))
        self.wait_for_end()
        self.assertEqual("active", self.kept.fields["vm_state"])
        self.assertEqual(1, len(self.kept.said("InstanceActionEvent.event_start")))
        self.assertEqual([], self.kept.said("InstanceFault.create"))

    def test_stop(self) -> None:
        self._verb("stop", "stop_instance")

    def test_start(self) -> None:
        self._verb("start", "start_instance")

    def test_soft_reboot(self) -> None:
        self._verb("reboot_soft", "reboot_instance")

    def test_hard_reboot(self) -> None:
        self._verb("reboot_hard", "reboot_instance")

    def test_terminate(self) -> None:
        name = "terminate_no_network"
        self.assert_legal(name, self.replay(name, "terminate_instance"))
        self.assertTrue(self.kept.deleted)
        self.assert_ends_as_captured(name)

    def test_terminate_of_a_guest_with_a_port(self) -> None:
        name = "terminate_instance"
        self.assert_legal(name, self.replay(name, "terminate_instance"))
        self.assertTrue(self.kept.deleted)

    def test_console_output_is_returned(self) -> None:
        capture = wire.load("get_console_output")
        call = capture.cast("get_console_output")
        self.build(guest_of(capture))
        self.assertIsInstance(self.send(call), str)

    def test_pause(self) -> None:
        self._verb("pause", "pause_instance")

    def test_unpause(self) -> None:
        self._verb("unpause", "unpause_instance", PAUSED)

    def test_suspend(self) -> None:
        self._verb("suspend", "suspend_instance")

    def test_resume(self) -> None:
        self._verb("resume", "resume_instance", SUSPENDED)

    def test_rescue(self) -> None:
        self._verb("rescue", "rescue_instance")

    def test_unrescue(self) -> None:
        self._verb("unrescue", "unrescue_instance", RESCUED)

    def test_resize(self) -> None:
        self._verb("resize", "prep_resize")
        self.assertEqual("finished", self.kept.migration["nova_object.data"]["status"])
        self.assertEqual(96, self.kept.fields["memory_mb"])

    def test_confirm_resize(self) -> None:
        self._verb("confirm_resize", "confirm_resize", RESIZED)
        self.assertEqual("confirmed", self.kept.migration["nova_object.data"]["status"])
        self.assertIsNone(self.kept.fields["old_flavor"])

    def test_revert_resize(self) -> None:
        self._verb("revert_resize", "revert_resize", RESIZED)
        self.assertEqual("reverted", self.kept.migration["nova_object.data"]["status"])

    def test_snapshot(self) -> None:
        self.queue("snapshot", "snapshot_instance")
        self._verb("snapshot", "snapshot_instance")
        [image] = [image for image in self.images.list() if image.name == "snap"]
        self.assertEqual("active", image.status)

    def test_rebuild(self) -> None:
        image = wire.load("rebuild").cast("rebuild_instance").args["image_ref"]
        if self.images.status({}, image) is None:
            [known] = self.images.list()
            self.images.create(str(self.home / "disk"), disk_format=known.disk_format,
                               image_id=image)
        self._verb("rebuild", "rebuild_instance")

    def test_shelve_with_offload(self) -> None:
        self.queue("shelve", "shelve_instance")
        self._verb("shelve", "shelve_instance")
        self.assertIsNone(self.kept.fields["host"])

    def test_unshelve(self) -> None:
        self.queue("shelve", "shelve_instance")
        self._verb("unshelve", "unshelve_instance", ("shelve", "shelve_instance"))
        self.assertEqual(HOST, self.kept.fields["host"])

    def queue(self, name: str, method: str) -> None:
        """Describe the image that a capture is about, as Nova's API did."""
        image = wire.load(name).cast(method).args["image_id"]
        self.images.reserve(image_id=image, name="snap", min_disk=0, min_ram=0, properties={})
        self.patch(images, "_inspect", lambda path, image: None)  # a fake's disk is no disk

    def test_cast_that_is_not_implemented_is_refused_and_its_task_cleared(self) -> None:
        cast = wire.load("snapshot").cast("snapshot_instance")
        cast.args.pop("image_id")
        cast = dataclasses.replace(cast, method="volume_snapshot_create", args={
            **cast.args, "volume_id": "v", "create_info": {}})
        self.build(guest_of(wire.load("snapshot")))
        self._take_and_send(cast)
        said = self.kept.said()
        self.assertIsNone(self.kept.fields["task_state"])
        self.assertEqual("active", self.kept.fields["vm_state"])
        self.assertIn("InstanceFault.create", [m.what for m in said])

    def test_an_attach_without_a_network_service_is_refused_as_nova_refuses(self) -> None:
        """Neutron's adapter is not there yet; what Nova sends is understood all the same."""
        capture = wire.load("attach_interface")
        call = capture.cast("attach_interface")
        self.build(guest_of(capture))
        self.kept.take(call.args)
        self.assertRaises(nova_exception("NetworkNotFound"), self.send, call)
        self.assert_refused("attach_interface")

    def test_a_detach_of_a_port_that_is_none_of_the_guests(self) -> None:
        capture = wire.load("detach_interface")
        self.build(guest_of(capture))
        self.kept.fields["info_cache"]["nova_object.data"]["network_info"] = "[]"
        cast = capture.cast("detach_interface")
        cast.args["instance"]["nova_object.data"]["info_cache"] = self.kept.fields["info_cache"]
        self._take_and_send(cast)
        self.assert_refused("detach_interface")

    def assert_refused(self, method: str) -> None:
        """The guest is as it was, and who asked is told."""
        self.assertEqual(("active", None),
                         (self.kept.fields["vm_state"], self.kept.fields["task_state"]))
        said = [message.what for message in self.kept.said()]
        self.assertIn("InstanceFault.create", said)
        self.assertEqual(f"compute_{method}", self.kept.said(
            "InstanceActionEvent.event_finish_with_failure")[-1].args["args"][1])

    def test_external_events_are_taken_on_the_second_topic(self) -> None:
        capture = wire.load("start")
        event = capture.cast("external_instance_event")
        self.assertEqual("compute-alt", event.to.partition(".")[0])
        self.build(guest_of(capture))
        self.send(event)
        ping = self.client.prepare(topic="compute-alt", server=HOST, namespace="baseapi",
                                   version="1.0")
        self.assertEqual({"service": "compute", "arg": 1}, ping.call({}, "ping", arg=1))

    def test_registration(self) -> None:
        self.assert_legal(REGISTRATION, self.kept.said())
        made = {m.what: m.changes for m in self.kept.said() if m.what.endswith(".create")}
        wanted = {m.what: m.changes for m in wire.load(REGISTRATION).calls()
                  if m.what.endswith(".create")}
        self.assertEqual(set(wanted), set(made))
        self.assertEqual({**wanted["Service.create"], "host": HOST}, made["Service.create"])
        self.assertEqual([], sorted(set(wanted["ComputeNode.create"])
                                    - set(made["ComputeNode.create"])))

    def _verb(self, name: str, method: str, *after: tuple[str, str]) -> None:
        self.assert_legal(name, self.replay(name, method, after))
        self.assert_ends_as_captured(name)
