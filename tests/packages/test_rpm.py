"""The rpm, by the rpm of this host: no distribution that uses it can be had here, but its scripts run under a systemd."""

import shutil
import subprocess
import tempfile
import unittest

from installed import CONFIG, SERVICE, Host, Load
from machine import until
from packages import RPM


class Rpm(unittest.TestCase):
    def setUp(self) -> None:
        if not shutil.which("rpm"):
            print("NOT RUN: rpm: it is not installed", flush=True)
            self.skipTest("rpm")
        self.host = self.enterContext(Host())
        # It looks for its database on this host, whatever root it is given.
        self.database = self.enterContext(tempfile.TemporaryDirectory())

    def rpm(self, *arguments: object) -> str:
        """Runs this host's rpm on the machine's files, among its processes."""
        leader = str(self.host.leader)
        command = ["nsenter", "-t", leader, "--pid", "--net", "--ipc", "--uts", "--cgroup"]
        command += ["rpm", f"--root=/proc/{leader}/root", f"--dbpath={self.database}", *arguments]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def test_install_upgrade_downgrade_and_erase(self) -> None:
        host = self.host
        said = self.rpm("-i", "--nodeps", RPM["first"])
        self.assertRegex(said, rf"(?s){CONFIG}:\d+:13: secret_id is empty.*systemctl enable --now bedrock-sidecar")
        self.assertEqual((host.states(), host.listens()), (["inactive", "inactive"], []))
        self.assertEqual(host.enabled(), ["disabled", "disabled"])
        host.shell("id bedrock-sidecar")
        host.configure()
        host.start()
        pids = [host.show("MainPID")]
        with Load(host) as load:
            for which in ("second", "first"):
                self.rpm("-U", "--nodeps", "--oldpackage", RPM[which])
                self.assertTrue(host.runs_installed_program())
                pids.append(host.show("MainPID"))
                load.more()
        self.assertEqual(len(set(pids)), 3)
        self.assertEqual(load.done["failures"], [])
        answered = sum(load.done["answered"].values())
        until("all records", lambda: len(host.records()) >= answered)
        self.assertEqual(len({record["requestId"] for record in host.records()}), answered)

        right = host.shell(f"cat {CONFIG}")
        host.put(CONFIG, right + "[listen2]\n")
        said = self.rpm("-U", "--nodeps", RPM["second"])
        self.assertIn("this version does not accept the configuration", said)
        self.assertEqual((host.show("MainPID"), host.ask()), (pids[-1], 200))

        self.rpm("-e", "bedrock-sidecar")
        self.assertEqual(host.listens(), [])
        self.assertEqual(host.exists("/usr/bin/bedrock-sidecar", CONFIG, f"{CONFIG}.rpmsave"), [False, False, True])
        self.assertEqual(host.exists("/var/lib/bedrock-sidecar", "/usr/share/doc/bedrock-sidecar"), [True, False])
        host.shell("id bedrock-sidecar")
        self.assertEqual(host.shell("find /etc/systemd/system -name 'bedrock-sidecar*' -type l"), "")
        self.assertEqual(host.show("LoadState", SERVICE), "not-found")
