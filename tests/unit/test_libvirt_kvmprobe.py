"""The proof that KVM runs guests. Emulators are small scripts, and QEMU itself if it is there."""

import json
import os
import shutil
import stat

import fixtures
import testtools

from compute.errors import Failed
from tests.waiting import PATIENCE
from virt.libvirt import kvmprobe
from virt.libvirt.caps import HostCaps, Support
from virt.libvirt.virttype import VirtType


class ProbeCase(testtools.TestCase):
    def setUp(self):
        super().setUp()
        self.useFixture(fixtures.FakeLogger())
        self.state = self.useFixture(fixtures.TempDir()).path
        self.emulator = os.path.join(self.state, "emulator")

    def prove(self, script=None, **options):
        if script is not None:
            with open(self.emulator, "w") as file:
                file.write(f"#!/bin/sh\necho run >> {self.state}/runs\n{script}\n")
            os.chmod(self.emulator, stat.S_IRWXU)
        return kvmprobe.prove(
            self.emulator, self.state, **{"device": "/dev/null", "limit": PATIENCE, **options}
        )

    def runs(self):
        with open(os.path.join(self.state, "runs")) as file:
            return len(file.readlines())


class TestProbe(ProbeCase):
    def test_the_exit_code_of_the_program_is_the_proof(self):
        for code in (0, 1, 32, 34):
            self.assertFalse(self.prove(f"exit {code}").works, code)
        self.assertTrue(self.prove(f"exit {kvmprobe.EXIT_CODE}").works)

    def test_a_guest_that_hangs_is_given_up_in_time(self):
        verdict = self.prove("exec sleep 600", limit=0.5)
        self.assertFalse(verdict.works)
        self.assertIn("0.5 s", verdict.why)

    def test_what_qemu_says_is_passed_on(self):
        verdict = self.prove("echo noise >&2; echo 'no KVM for you' >&2; exit 1")
        self.assertIn("no KVM for you", verdict.why)

    def test_without_device_or_emulator_nothing_is_run(self):
        for device in ("/nonexistent/kvm", self.state):
            verdict = self.prove("exit 0", device=device)
            self.assertFalse(verdict.works)
            self.assertIn(device, verdict.why)
        self.emulator = "/nonexistent/qemu"
        self.assertIn("cannot be run", self.prove().why)

    def test_a_proof_is_kept_for_this_boot_and_this_emulator(self):
        for script, limit in ((f"exit {kvmprobe.EXIT_CODE}", PATIENCE),
                              ("exec sleep 600 # other size", 2)):
            first = self.prove(script, limit=limit)
            runs = self.runs()
            again = self.prove()
            self.assertEqual((first.works, first.why, True), (again.works, again.why, again.cached))
            self.assertEqual(runs, self.runs())

    def test_a_new_emulator_is_proven_anew(self):
        self.prove(f"exit {kvmprobe.EXIT_CODE}")
        self.assertFalse(self.prove("true; exit 3").works)

    def test_a_refusal_is_not_kept(self):
        self.prove("exit 1")
        self.prove()
        self.assertEqual(2, self.runs())

    def test_damaged_notes_are_ignored(self):
        path = os.path.join(self.state, "kvm-probe.json")
        for text in ("", "[]", "null", json.dumps({"key": "x"})):
            with open(path, "w") as file:
                file.write(text)
            self.assertTrue(self.prove(f"exit {kvmprobe.EXIT_CODE}").works)
            os.unlink(path)

    def test_the_program_really_runs(self):
        qemu = shutil.which("qemu-system-x86_64")
        if qemu is None:
            self.skipTest("qemu-system-x86_64 is not installed (see bindep.txt)")
        verdict = kvmprobe.prove(
            qemu, self.state, device="/dev/null", accel="tcg", limit=PATIENCE
        )
        self.assertTrue(verdict.works, verdict.why)


class TestVirtType(ProbeCase):
    def caps(self, *types):
        support = Support("x86_64", self.emulator, types, {"q35": 1}, {})
        return HostCaps("x86_64", {}, {"x86_64": support})

    def found(self, chosen, *types):
        return VirtType(chosen, self.state).get(self.caps(*types))

    def test_the_operators_choice_is_not_questioned(self):
        for chosen in ("kvm", "qemu"):
            self.assertEqual(chosen, self.found(chosen))

    def test_auto_without_kvm_is_qemu(self):
        self.assertEqual("qemu", self.found("auto", "qemu"))

    def test_auto_believes_the_proof_only_and_asks_once(self):
        answers = [kvmprobe.Verdict(True, "yes"), kvmprobe.Verdict(False, "no")]
        self.patch(kvmprobe, "prove", lambda *args: answers.pop(0))
        virt_type = VirtType("auto", self.state)
        for _ in range(2):
            self.assertEqual("kvm", virt_type.get(self.caps("qemu", "kvm")))
        self.assertEqual("qemu", self.found("auto", "qemu", "kvm"))
        self.assertEqual([], answers)

    def test_who_only_asks_does_not_wait_for_the_proof(self):
        virt_type = VirtType("auto", self.state)
        self.assertIsNone(virt_type.known())
        virt_type.get(self.caps("qemu"))
        self.assertEqual("qemu", virt_type.known())
        self.assertEqual("kvm", VirtType("kvm", self.state).known())

    def test_a_host_without_any_emulator_is_an_error(self):
        error = self.assertRaises(
            Failed, VirtType("auto", self.state).get, HostCaps("x86_64", {}, {})
        )
        self.assertIn("x86_64", error.what)
