"""The deb on a fresh Debian 12 without network."""

import unittest

from installed import APP, CONFIG, SERVICE, SOCKET, Host, Load
from machine import until
from packages import DEB

INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install --yes --allow-downgrades"


def package(which: str) -> str:
    return f"/packages/{which}/{DEB[which].name}"


class Debian(unittest.TestCase):
    def setUp(self) -> None:
        self.host = self.enterContext(Host())
        self.said = self.host.shell(f"{INSTALL} {package('first')} 2>&1")

    def start(self) -> None:
        self.host.configure()
        self.host.start()

    def test_a_fresh_install_listens_nowhere_and_says_what_to_edit(self) -> None:
        host = self.host
        self.assertEqual((host.states(), host.listens()), (["inactive", "inactive"], []))
        self.assertEqual(host.enabled(), ["disabled", "disabled"])
        self.assertRegex(host.shell("getent passwd bedrock-sidecar"), r"^bedrock-sidecar:x:\d+:\d+:.*:/usr/sbin/nologin")
        self.assertEqual(host.shell(f"stat -c '%a %U' {CONFIG}").strip(), "644 root")
        self.assertNotEqual(host.run("systemctl", "enable", "--now", "bedrock-sidecar").returncode, 0)
        said = host.shell(f"journalctl -u {SERVICE} -u {SOCKET} -o cat")
        lines = host.shell(f"cat {CONFIG}").splitlines()
        line = 1 + lines.index(next(line for line in lines if line.startswith("secret_id")))
        self.assertIn(f"{CONFIG}:{line}:13: secret_id is empty", said)
        self.assertRegex(self.said, rf"(?s){CONFIG}:{line}:13: secret_id is empty.*systemctl enable --now bedrock-sidecar")
        self.assertEqual(host.listens(), [])
        # The secret's name is all that is missing, as the example of user data puts it there.
        user_data = host.shell("cat /usr/share/doc/bedrock-sidecar/examples/user-data.sh").splitlines()
        (edit,) = [line for line in user_data if line.startswith("sed ")]
        host.shell(f"secret=mine; {edit}; bedrock-sidecar check")
        host.shell("systemctl start bedrock-sidecar")
        self.assertEqual((host.states(), host.listens()), (["active", "active"], ["8790", "8791"]))

    def test_an_upgrade_and_a_downgrade_under_load_lose_no_request(self) -> None:
        host = self.host
        self.start()
        self.assertEqual(host.states(), ["active", "active"])
        uid = host.shell("id -u bedrock-sidecar")
        pids = [host.show("MainPID")]
        with Load(host) as load:
            for which in ("second", "first"):
                host.shell(f"{INSTALL} {package(which)}")
                self.assertIn(DEB[which].name.split("_")[1], host.shell("dpkg-query -W bedrock-sidecar"))
                self.assertTrue(host.runs_installed_program())
                pids.append(host.show("MainPID"))
                load.more()
        self.assertEqual(len(set(pids)), 3)
        self.assertEqual(load.done["failures"], [])
        answered = sum(load.done["answered"].values())
        until("all records", lambda: len(host.records()) >= answered)
        records = host.records()
        self.assertEqual(len({record["requestId"] for record in records}), answered, "one record for each answer")
        self.assertEqual({(r["callerUid"], r["outcome"]) for r in records}, {(APP, "completed")})
        self.assertEqual(host.shell("id -u bedrock-sidecar"), uid)
        self.assertIn("$CREDENTIALS_DIRECTORY", host.shell(f"cat {CONFIG}"))

    def test_a_daemon_goes_on_whose_configuration_the_new_version_refuses(self) -> None:
        host = self.host
        self.start()
        pid = host.show("MainPID")
        right = host.shell(f"cat {CONFIG}")
        host.put(CONFIG, right + "[listen2]\n")
        said = host.shell(f"{INSTALL} {package('second')} 2>&1")
        self.assertIn("this version does not accept the configuration", said)
        self.assertRegex(said, rf"{CONFIG}:\d+:\d+: .*listen2")
        self.assertEqual((host.show("MainPID"), host.ask()), (pid, 200))
        host.put(CONFIG, right)
        host.shell("systemctl restart bedrock-sidecar")
        self.assertNotEqual(host.show("MainPID"), pid)
        self.assertEqual(host.ask(), 200)
        self.assertEqual([(r["callerUid"], r["outcome"]) for r in host.records()], [(APP, "completed")] * 2)

    def test_a_daemon_that_cannot_start_does_not_fail_the_package_manager(self) -> None:
        host = self.host
        self.start()
        # The configuration is fine; what the daemon needs at its start is not.
        host.shell(f"systemctl stop {SOCKET} {SERVICE}; rm /etc/bedrock-sidecar/credential")
        self.assertNotEqual(host.run("systemctl", "start", SERVICE).returncode, 0)
        host.shell(f"{INSTALL} {package('second')}")
        self.assertIn("install ok installed", host.shell("dpkg-query -W -f '${Status}' bedrock-sidecar"))

    def test_commands_find_what_the_service_has(self) -> None:
        host = self.host
        self.start()
        self.assertEqual(host.ask(), 200)
        (record,) = host.records()
        app = f"setpriv --reuid={APP} --regid={APP} --clear-groups"
        # The configuration names $CREDENTIALS_DIRECTORY, which systemd sets for the service only.
        self.assertIn("ok    ", host.shell("bedrock-sidecar check"))
        self.assertIn(record["requestId"], host.shell("bedrock-sidecar audit list"))
        self.assertIn("AWS_ENDPOINT_URL", host.shell(f"{app} bedrock-sidecar env"))
        self.assertIn('"ready": true', host.shell(f"{app} bedrock-sidecar status"))
        # Records are for root and the daemon's user alone.
        refused = host.run("sh", "-c", f"{app} bedrock-sidecar audit list")
        self.assertEqual(refused.returncode, 1)
        sentence = "/var/lib/bedrock-sidecar cannot be read: Permission denied (os error 13); run the command as root"
        self.assertIn(sentence, refused.stdout)
        # What root can read is not what the service can.
        by_path = host.shell(f"cat {CONFIG}").replace("$CREDENTIALS_DIRECTORY/bedrock", "/etc/bedrock-sidecar/credential")
        host.put("/tmp/by-path.toml", by_path)
        checked = host.shell("bedrock-sidecar check --config /tmp/by-path.toml")
        self.assertIn("warn  only root can read the secret /etc/bedrock-sidecar/credential", checked)
        host.shell(f"systemctl stop {SOCKET} {SERVICE}")
        stopped = host.run("bedrock-sidecar", "check")
        self.assertEqual(stopped.returncode, 78)
        self.assertIn("a command by hand finds it while bedrock-sidecar.service runs", stopped.stdout)

    def test_a_purge_empties_a_disk_that_holds_the_state(self) -> None:
        host = self.host
        state = "/var/lib/bedrock-sidecar"
        host.shell(f"mkdir {state}; mount -t tmpfs state {state}")
        self.start()
        self.assertEqual(host.ask(), 200)
        self.assertEqual([record["outcome"] for record in host.records()], ["completed"])
        said = host.shell("apt-get purge --yes bedrock-sidecar 2>&1")
        self.assertIn(f"{state} stays", said)
        self.assertEqual(host.shell(f"ls -A {state}"), "")
        self.assertNotEqual(host.run("dpkg-query", "-W", "bedrock-sidecar").returncode, 0)

    def test_remove_keeps_what_purge_clears(self) -> None:
        host = self.host
        self.start()
        self.assertEqual(host.ask(), 200)
        (record,) = host.records()
        ledger, program = "/var/lib/bedrock-sidecar", "/usr/bin/bedrock-sidecar"
        host.shell("apt-get remove --yes bedrock-sidecar")
        self.assertEqual(host.listens(), [])
        self.assertEqual(host.exists(program, CONFIG, ledger), [False, True, True])
        host.shell("id bedrock-sidecar")

        host.shell(f"{INSTALL} {package('first')}")
        self.assertEqual(host.enabled(), ["enabled", "enabled"])
        host.shell(f"systemctl start {SERVICE}")
        self.assertIn(record["requestId"], host.shell("bedrock-sidecar audit list"))

        host.shell("apt-get purge --yes bedrock-sidecar")
        self.assertEqual(host.listens(), [])
        self.assertEqual(host.exists(program, CONFIG, ledger), [False, False, False])
        host.shell("id bedrock-sidecar")
        left = host.shell("find /etc /usr /var /run -xdev -name '*bedrock*' ! -name bedrock-simulator").split()
        # What the admin made, and what the credential was for, is the admin's.
        self.assertEqual(
            sorted(path for path in left if not path.startswith(("/var/cache", "/run/systemd"))),
            ["/etc/bedrock-sidecar", f"/etc/systemd/system/{SOCKET}.d", f"/etc/systemd/system/{SERVICE}.d"],
        )
        self.assertEqual(host.shell("ls /etc/bedrock-sidecar").split(), ["credential"])
