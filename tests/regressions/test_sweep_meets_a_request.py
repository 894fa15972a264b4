"""The sweep of secrets at start met the file that a request, arriving at that moment, was writing.
It was renamed between the listing and the look at its age, and the agent ended with exit code 1.
What had ended it was told to nobody, since the handlers of the log had been shut down before.
"""

import contextlib
import io
from unittest import mock

import fixtures
import testtools

from compute.cmd import common
from compute.engine.secrets import Secrets


class SweepTest(testtools.TestCase):
    def test_a_file_that_is_renamed_meanwhile(self):
        secrets = Secrets(self.useFixture(fixtures.TempDir()).path)
        part = secrets.directory / "op1.guest.part.1-2-3"
        part.write_text("{}")

        def active(operation):
            if part.exists():
                part.rename(secrets.directory / "op1.guest")
            return

        secrets.sweep(active)
        self.assertEqual({}, secrets.load("op1", "guest"))
        self.assertTrue((secrets.directory / "op1.guest").exists())


class Broken:
    stopped = False

    def start(self):
        raise ZeroDivisionError("that nobody thought of")

    def stop(self):
        Broken.stopped = True


class UnknownErrorTest(testtools.TestCase):
    def test_it_is_told(self):
        """An error that the agent does not know ends it, in order and not in silence."""
        with mock.patch("os._exit") as leave, mock.patch("signal.signal"), \
                mock.patch("logging.shutdown"), \
                contextlib.redirect_stderr(io.StringIO()) as errors:
            common.serve(Broken)
        leave.assert_called_once_with(1)
        self.assertTrue(Broken.stopped)
        self.assertIn("ZeroDivisionError: that nobody thought of", errors.getvalue())
