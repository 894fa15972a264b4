"""Who may have the control socket's file, and when it goes away."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading

import fixtures
import testtools

from compute.errors import Refused
from compute.operator.socket_file import SocketFile, peer_of

SERVE = """
import sys, time
from compute.operator.socket_file import SocketFile
listener = SocketFile(sys.argv[1]).listen()
print("ready", flush=True)
time.sleep(60)
"""


class SocketFileTest(testtools.TestCase):
    def setUp(self):
        super().setUp()
        # short: the address of a unix socket has 107 bytes at most
        self.dir = self.useFixture(fixtures.TempDir(tempfile.gettempdir())).path
        self.path = os.path.join(self.dir, "s")

    def listen(self, file: SocketFile | None = None) -> SocketFile:
        file = file or SocketFile(self.path)
        self.listener = file.listen()  # kept: green sockets close when they are forgotten
        self.addCleanup(self.listener.close)
        self.addCleanup(file.remove)
        return file

    def test_made_with_its_mode_and_removed(self):
        file = self.listen()
        mode = os.stat(self.path).st_mode
        self.assertTrue(stat.S_ISSOCK(mode))
        self.assertEqual(0o660, stat.S_IMODE(mode))
        self.assertEqual(os.getpid(), peer_of(self.path))
        file.remove()
        self.assertFalse(os.path.exists(self.path))
        self.assertEqual(["s.lock"], os.listdir(self.dir))

    def test_a_second_one_is_told_who_has_it(self):
        self.listen()
        error = self.assertRaises(Refused, SocketFile(self.path).listen)
        self.assertEqual("socket_in_use", error.code)
        self.assertIn(f"process {os.getpid()} ", error.what)
        self.assertEqual(os.getpid(), peer_of(self.path))

    def test_another_live_process_is_left_alone(self):
        child = subprocess.Popen(
            [sys.executable, "-c", SERVE, self.path], stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(child.stdout.close)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        self.assertEqual("ready\n", child.stdout.readline())
        error = self.assertRaises(Refused, SocketFile(self.path).listen)
        self.assertIn(f"process {child.pid} ", error.what)
        child.kill()
        child.wait()
        self.assertTrue(os.path.exists(self.path))
        self.assertIsNone(peer_of(self.path))
        self.listen()  # what the dead process left is replaced
        self.assertEqual(os.getpid(), peer_of(self.path))

    def test_a_stranger_without_the_lock_file_is_left_alone(self):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.bind(self.path)
            stranger.listen()
            error = self.assertRaises(Refused, SocketFile(self.path).listen)
            self.assertEqual("socket_in_use", error.code)
            self.assertEqual(os.getpid(), peer_of(self.path))

    def test_what_is_not_a_socket_is_never_touched(self):
        with open(self.path, "w") as file:
            file.write("precious")
        error = self.assertRaises(Refused, SocketFile(self.path).listen)
        self.assertEqual("socket_unusable", error.code)
        with open(self.path) as file:
            self.assertEqual("precious", file.read())

    def test_paths_that_cannot_hold_a_socket(self):
        for path in (os.path.join(self.dir, "absent", "s"), os.path.join(self.dir, "x" * 110)):
            error = self.assertRaises(Refused, SocketFile(path).listen)
            self.assertEqual("socket_unusable", error.code)
            self.assertIn(path, error.what)

    def test_a_file_that_is_no_longer_ours_stays(self):
        file = self.listen()
        os.unlink(self.path)
        with open(self.path, "w") as other:
            other.write("not ours")
        file.remove()
        self.assertTrue(os.path.exists(self.path))

    def test_after_a_refusal_the_lock_is_free(self):
        os.mkdir(self.path)
        self.assertRaises(Refused, SocketFile(self.path).listen)
        os.rmdir(self.path)
        self.listen()

    def test_of_many_starters_one_wins(self):
        won, lost, go = [], [], threading.Barrier(8)

        def start():
            file = SocketFile(self.path)
            go.wait()
            try:
                won.append((file, file.listen()))
            except Refused as error:
                lost.append(error.code)

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((1, ["socket_in_use"] * 7), (len(won), lost))
        self.assertEqual(os.getpid(), peer_of(self.path))
        won[0][1].close()
        won[0][0].remove()
