"""The units under a booted systemd: what an admin sees of the daemon, and what they promise to apps."""

import json
import os
import subprocess
import sys
import time
import unittest
from pathlib import Path

from machine import Failed, Machine, until

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BINARIES = Path(os.environ.get("BEDROCK_SIDECAR_BINARIES", ROOT / "target/debug"))
SERVICE = "bedrock-sidecar.service"
SOCKET = "bedrock-sidecar-listen.socket"
CONFIG = "/etc/bedrock-sidecar/config.toml"
APP = 4321  # an app's user
KEY = "ABSKQmVkcm9ja0FQSUtleS1hYmNkLWF0LTEyMzQ1Njc4OTAxMjpub3QtYS1yZWFsLXNlY3JldC1vbmx5LWZvci10aGUtc2ltdWxhdG9y"  # the simulator's
MODEL = "/model/amazon.nova-lite-v1%3A0/converse"
PROMPT = json.dumps({"messages": [{"role": "user", "content": [{"text": "hello"}]}]})

CONFIGURED = """
[[upstreams]]
region = "us-east-1"
runtime_endpoint = "http://127.0.0.1:9000"
control_endpoint = "http://127.0.0.1:9000"
[credentials]
source = "file"
file = "$CREDENTIALS_DIRECTORY/bedrock"
[audit]
table = ""
"""

machine: Machine


def setUpModule() -> None:
    global machine
    machine = Machine(
        {
            "ro:/usr/bin/bedrock-sidecar": BINARIES / "bedrock-sidecar",
            "ro:/usr/bin/bedrock-simulator": BINARIES / "bedrock-simulator",
        }
    )
    machine.__enter__()
    unittest.addModuleCleanup(machine.__exit__)
    # As the packages install them.
    for unit in (SERVICE, SOCKET):
        put(f"/usr/lib/systemd/system/{unit}", (ROOT / "systemd" / unit).read_text())
    for kind in ("sysusers.d", "tmpfiles.d"):
        for file in (ROOT / "systemd" / kind).glob("*.conf"):
            put(f"/usr/lib/{kind}/{file.name}", file.read_text())
    machine.shell(f"systemd-sysusers; groupadd --gid {APP} bedrock-apps")
    machine.shell(
        "systemd-run --quiet --unit=simulator /usr/bin/bedrock-simulator --plain 127.0.0.1:9000 --record-limit 1000000"
    )
    wait_for_port(9000)


def put(path: str, text: str, mode: int = 0o644) -> None:
    file = machine.path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)


def wait_for_port(port: int) -> None:
    until(f"port {port}", lambda: f":{port} " in machine.shell("ss -Hltn"))


def drop_in(unit: str, name: str, text: str | None = None) -> None:
    """Installs one of systemd/examples/, or a text."""
    text = text if text is not None else (ROOT / "systemd/examples" / name).read_text()
    put(f"/etc/systemd/system/{unit}.d/{name}", text)
    machine.shell("systemctl daemon-reload")


def show(what: str, unit: str = SERVICE) -> str:
    return machine.shell(f"systemctl show --value -p {what} {unit}").strip()


def ask(*options: str, uid: int = APP, path: str = MODEL) -> tuple[int, dict]:
    """One request from the app's user: status and body."""
    done = machine.run(
        *("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "curl", "-sS", "--max-time", "30"),
        *("-w", "\n%{http_code}", "-H", "content-type: application/json", *options, "-d", PROMPT, f"http://localhost:8790{path}"),
    )
    body, _, status = done.stdout.rpartition("\n")
    if done.returncode != 0:
        raise Failed(f"curl: {done.stdout}")
    return int(status), json.loads(body)


class Units(unittest.TestCase):
    def setUp(self) -> None:
        machine.run("systemctl", "stop", SOCKET, SERVICE)
        machine.run("systemctl", "reset-failed", SOCKET, SERVICE)
        machine.shell("rm -rf /etc/systemd/system/bedrock-* /var/lib/bedrock-sidecar /run/bedrock-sidecar")
        machine.shell("systemd-tmpfiles --create; systemctl daemon-reload")
        machine.shell("curl -sS -X DELETE http://127.0.0.1:9000/_simulator/requests")
        put(CONFIG, CONFIGURED)
        put("/etc/bedrock-sidecar/credential", KEY, 0o600)
        drop_in(SERVICE, "credential.conf")
        cursor = machine.shell("journalctl -q -n 1 -o cat --show-cursor")
        self.cursor = cursor.rpartition("-- cursor: ")[2].strip()

    def run(self, result=None):
        """Shows the journal of a test that fails."""
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before:
            print(self.said()[-8000:], file=sys.stderr)
        return result

    def journal(self) -> list[dict]:
        """What the service and systemd about it have said since the test began."""
        text = machine.shell(f"journalctl -q --sync; journalctl -q -u {SERVICE} -o json --after-cursor='{self.cursor}'")
        return [json.loads(line) for line in text.splitlines()]

    def said(self) -> str:
        return "\n".join(str(entry.get("MESSAGE")) for entry in self.journal())

    def events(self, message: str) -> list[dict]:
        """Lines of the daemon's JSON log."""
        lines = [entry.get("MESSAGE") for entry in self.journal() if entry.get("_COMM") == "bedrock-sidecar"]
        lines = [json.loads(line) for line in lines if isinstance(line, str) and line.startswith("{")]
        return [line for line in lines if line.get("message") == message]

    def records(self) -> list[dict]:
        return self.events("request")

    def sent(self) -> int:
        """How many requests for the model have reached the simulator since the test began."""
        seen = json.loads(machine.shell("curl -sS http://127.0.0.1:9000/_simulator/requests"))
        return sum(one["path"].startswith("/model/") for one in seen)

    def start(self) -> None:
        machine.shell(f"systemctl start {SERVICE}")

    def assert_refuses_to_start(self, sentence: str) -> None:
        """It says the sentence once, waits for the admin, and listens nowhere."""
        with self.assertRaises(Failed):
            self.start()
        self.assertEqual((show("ActiveState"), show("NRestarts")), ("failed", "0"), self.said())
        self.assertEqual(self.said().count(sentence), 1, self.said())

    def test_a_fresh_install_says_what_to_edit(self) -> None:
        machine.shell("rm -r /etc/systemd/system/bedrock-*; systemctl daemon-reload")
        example = (ROOT / "config.example.toml").read_text()
        put(CONFIG, example)
        line = 1 + [text.startswith("secret_id =") for text in example.splitlines()].index(True)
        self.assert_refuses_to_start(f"{CONFIG}:{line}:13: secret_id is empty; write the name of the secret")
        self.assertNotIn(":8790 ", machine.shell("ss -Hltn"))

    def test_no_configuration_is_said(self) -> None:
        machine.shell(f"rm {CONFIG}")
        self.assert_refuses_to_start(f"{CONFIG}:1:1: the configuration cannot be read")

    def test_a_start_is_ready_and_confined(self) -> None:
        self.start()
        self.assertEqual(
            show("StatusText"),
            "Ready: commercial Bedrock of us-east-1 (Bedrock API key). Listening on 127.0.0.1:8790",
        )
        pid = show("MainPID")
        status = dict(line.split(":\t") for line in machine.shell(f"cat /proc/{pid}/status").splitlines() if ":\t" in line)
        uid = machine.shell("id -u bedrock-sidecar").strip()
        self.assertEqual(set(status["Uid"].split()), {uid})
        confined = {"CapEff": "0000000000000000", "CapBnd": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"}
        self.assertEqual({name: status[name] for name in confined}, confined)
        self.assertRegex(machine.shell(f"cat /proc/{pid}/limits"), r"Max core file size +0 +0 ")
        self.assertEqual(ask()[0], 200)
        for path, expected in {
            "/var/lib/bedrock-sidecar": "700 bedrock-sidecar bedrock-sidecar",
            "/run/bedrock-sidecar": "755 bedrock-sidecar bedrock-sidecar",
            "/etc/bedrock-sidecar": "755 root root",
        }.items():
            self.assertEqual(machine.shell(f"stat -c '%a %U %G' {path}").strip(), expected, path)
        open_to_others = machine.shell("find /var/lib/bedrock-sidecar ! -user bedrock-sidecar -o -perm /077")
        self.assertEqual(open_to_others, "")
        until("the record", self.records)
        self.assertNotIn(KEY, self.said())

    def test_the_kernel_tells_users_through_the_sandbox(self) -> None:
        put(CONFIG, CONFIGURED + f'[[callers]]\nname = "app"\nusers = ["{APP}"]\n[policy]\nrequire_known_caller = true\n')
        self.start()
        self.assertEqual(ask()[0], 200)
        self.assertEqual(ask(uid=4322)[0], 403)
        records = until("both records", lambda: len(self.records()) == 2 and self.records())
        self.assertEqual([(r["callerUid"], r.get("caller"), r["outcome"]) for r in records],
                         [(APP, "app", "completed"), (4322, None, "refused")])

    def test_a_daemon_that_hangs_is_started_anew(self) -> None:
        drop_in(SERVICE, "watchdog.conf", "[Service]\nWatchdogSec=2\nRestartSec=0\n")
        self.start()
        first = show("MainPID")
        # Alive for longer than WatchdogSec=, so it does answer.
        started = time.monotonic()
        until("some pings", lambda: time.monotonic() - started > 4.5)
        self.assertEqual((show("MainPID"), show("NRestarts")), (first, "0"))
        machine.shell(f"kill -STOP {first}")
        until("the restart", lambda: show("NRestarts") == "1" and show("ActiveState") == "active")
        self.assertIn("Watchdog timeout", self.said())
        self.assertNotEqual(show("MainPID"), first)
        self.assertEqual(ask()[0], 200)

    def test_a_reload_takes_a_good_file_and_refuses_a_bad_one(self) -> None:
        self.start()
        pid = show("MainPID")
        put(CONFIG, CONFIGURED + '[models]\ndeny = ["amazon.*"]\n')
        machine.shell(f"systemctl reload {SERVICE}")
        until("the reload", lambda: self.events("configuration reloaded"))
        self.assertEqual(ask()[0], 403)
        put(CONFIG, CONFIGURED + "[models]\ndeny = 1\n")
        with self.assertRaises(Failed):
            machine.shell(f"systemctl reload {SERVICE}")
        line = CONFIGURED.count("\n") + 2
        until("the refusal", lambda: f"{CONFIG}:{line}:8: " in self.said())
        self.assertEqual((show("ActiveState"), show("SubState"), show("MainPID")), ("active", "running", pid))
        self.assertEqual(len(self.events("configuration reloaded")), 1)
        self.assertEqual(ask()[0], 403, "the old settings stay in force")
        machine.run("systemctl", "stop", SERVICE)
        self.assert_refuses_to_start_again(f"{CONFIG}:{line}:8: ")

    def assert_refuses_to_start_again(self, sentence: str) -> None:
        before = self.said().count(sentence)
        with self.assertRaises(Failed):
            self.start()
        self.assertEqual((show("ActiveState"), show("NRestarts")), ("failed", "0"))
        self.assertEqual(self.said().count(sentence), before + 1)

    def test_an_encrypted_credential(self) -> None:
        machine.shell(
            "mkdir -p /etc/credstore.encrypted; systemd-creds encrypt --with-key=host --name=bedrock "
            "/etc/bedrock-sidecar/credential /etc/credstore.encrypted/bedrock; rm /etc/bedrock-sidecar/credential"
        )
        example = (ROOT / "systemd/examples/credential.conf").read_text()
        example = example.replace("\nLoadCredential=", "\n#LoadCredential=").replace("\n#LoadCredentialEncrypted=", "\nLoadCredentialEncrypted=")
        drop_in(SERVICE, "credential.conf", example)
        self.start()
        self.assertEqual(ask()[0], 200)

    def test_secrets_of_callers_as_credentials_can_be_reloaded(self) -> None:
        caller = '[[callers]]\nname = "app"\naccess_key_id = "LOCALAPP"\nsecret_access_key_file = "$CREDENTIALS_DIRECTORY/app"\n'
        put(CONFIG, CONFIGURED + caller)
        put("/etc/bedrock-sidecar/app", "c5d1e8f0a2b34c6d7e8f9a0b1c2d3e4f", 0o600)
        example = (ROOT / "systemd/examples/credential.conf").read_text()
        example = example.replace("\n#ExecReload=", "\nExecReload=") + "LoadCredential=app:/etc/bedrock-sidecar/app\n"
        drop_in(SERVICE, "credential.conf", example)
        self.start()
        machine.shell(f"systemctl reload {SERVICE}")
        until("the reload", lambda: self.events("configuration reloaded"))
        put(CONFIG, CONFIGURED + caller + "more = 1\n")
        machine.shell(f"systemctl reload {SERVICE}")
        kept = "the new configuration cannot be used; the old one stays in force"
        until("the refusal", lambda: self.events(kept))
        self.assertEqual(show("StatusText").partition(":")[0], "Ready")

    def test_the_other_examples_do_not_break_it(self) -> None:
        for name in ("ip-allow-list.conf", "memory.conf"):
            drop_in(SERVICE, name)
        self.start()
        self.assertEqual(ask()[0], 200)
        self.assertNotIn("ignoring", self.said())

    def test_the_journal_has_fields(self) -> None:
        put(CONFIG, CONFIGURED + '[log]\nformat = "journald"\n')
        self.start()
        self.assertEqual(ask()[0], 200)
        entry = until("the entry", lambda: next((e for e in self.journal() if e.get("MESSAGE") == "request"), None))
        self.assertEqual((entry["SYSLOG_IDENTIFIER"], entry["PRIORITY"]), ("bedrock-sidecar", "5"))
        self.assertEqual((entry["F_OPERATION"], entry["F_STATUS"], entry["F_OUTCOME"]), ("Converse", "200", "completed"))
        self.assertEqual(json.loads(entry["F_RECORD"])["callerUid"], APP)

    def test_a_taken_port_is_tried_again(self) -> None:
        drop_in(SERVICE, "soon.conf", "[Service]\nRestartSec=1\n")
        machine.shell("systemd-run --quiet --unit=thief /usr/bin/bedrock-simulator --plain 127.0.0.1:8790")
        wait_for_port(8790)
        try:
            with self.assertRaises(Failed):
                self.start()
            until("a second try", lambda: int(show("NRestarts")) > 0)
            self.assertIn("127.0.0.1:8790 cannot be listened on", self.said())
        finally:
            machine.shell("systemctl stop thief")
        until("the start", lambda: show("ActiveState") == "active")
        self.assertEqual(ask()[0], 200)

    def test_a_stop_waits_for_a_stream_for_longer_than_systemd_would(self) -> None:
        drop_in(SERVICE, "impatient.conf", "[Service]\nTimeoutStopSec=1\n")
        self.start()
        prompt = PROMPT.replace("hello", "events 4 pace 1500")
        machine.shell(
            "rm -f /tmp/stream; systemd-run --quiet --unit=stream --property=RemainAfterExit=yes curl -sS -N -o /tmp/stream "
            f"-H 'content-type: application/json' -d '{prompt}' http://localhost:8790{MODEL}-stream"
        )
        until("the stream", lambda: machine.run("test", "-s", "/tmp/stream").returncode == 0)
        machine.shell(f"systemctl stop {SERVICE}")
        self.assertEqual((show("Result"), show("ExecMainStatus")), ("success", "0"), self.said())
        self.assertEqual([record["outcome"] for record in self.records()], ["completed"])
        until("curl", lambda: show("SubState", "stream") == "exited")
        machine.shell("systemctl stop stream")

    def test_a_unix_socket_of_its_own(self) -> None:
        put(CONFIG, '[listen]\nunix_socket = "/run/bedrock-sidecar/bedrock.sock"\n' + CONFIGURED)
        self.start()
        self.assertEqual(machine.shell("stat -c '%a %U' /run/bedrock-sidecar/bedrock.sock").strip(), "666 bedrock-sidecar")
        self.assertEqual(ask("--unix-socket", "/run/bedrock-sidecar/bedrock.sock")[0], 200)
        record = until("the record", lambda: self.records())[0]
        self.assertEqual((record["callerUid"], record["sourceIP"]), (APP, "/run/bedrock-sidecar/bedrock.sock"))

    def test_the_daemon_starts_when_somebody_connects(self) -> None:
        machine.shell(f"systemctl start {SOCKET}")
        self.assertEqual(show("ActiveState"), "inactive")
        self.assertEqual(ask()[0], 200)
        self.assertEqual(show("ActiveState"), "active")
        until("the record", self.records)
        filled = {event["address"]: event["name"] for event in self.events("listening on a socket of the service manager")}
        self.assertEqual(filled, {"127.0.0.1:8790": "listen", "127.0.0.1:8791": "listen"})

    def test_clients_of_a_daemon_that_cannot_start_are_refused_soon(self) -> None:
        machine.shell(f"systemctl start {SOCKET}")
        put(CONFIG, CONFIGURED + "[listen2]\n")
        refused = machine.run("curl", "-sS", "--max-time", "50", "http://127.0.0.1:8790/")
        self.assertIn(refused.returncode, (7, 52, 56), refused.stdout)
        until("the end of the tries", lambda: show("Result", SOCKET) == "trigger-limit-hit")
        self.assertEqual(self.said().count("unknown field `listen2`"), 5)
        put(CONFIG, CONFIGURED)
        machine.shell(f"systemctl start {SOCKET} {SERVICE}")
        self.assertEqual(ask()[0], 200)
        self.assertEqual([record["outcome"] for record in until("the record", self.records)], ["completed"])

    def test_sockets_and_configuration_must_name_the_same(self) -> None:
        put(CONFIG, '[listen]\naddresses = ["127.0.0.1:8795"]\n' + CONFIGURED)
        machine.shell(f"systemctl start {SOCKET}")
        self.assert_refuses_to_start("the service manager passes a socket for 127.0.0.1:8790, which [listen] does not name")
        drop_in(SOCKET, "port.conf", "[Socket]\nListenStream=\nListenStream=127.0.0.1:8795\nListenStream=127.0.0.1:8791\n")
        machine.shell(f"systemctl restart {SOCKET}")
        self.start()
        self.assertEqual(show("StatusText").rpartition(" ")[2], "127.0.0.1:8795")

    def test_a_restart_under_load_loses_nothing(self) -> None:
        put(CONFIG, '[listen]\nunix_socket = "/run/bedrock-sidecar/bedrock.sock"\n' + CONFIGURED)
        drop_in(SOCKET, "unix-socket.conf")
        machine.shell(f"systemctl start {SOCKET} {SERVICE}")
        inside = machine.shell("stat -c '%a %U %G' /run/bedrock-sidecar/bedrock.sock").strip()
        self.assertEqual(inside, "660 root bedrock-apps")

        def counts() -> tuple[int, int]:
            records = self.records()
            return len(records), sum(record["streaming"] for record in records)

        def more_than(records: int, streams: int) -> bool:
            return all(now > least for now, least in zip(counts(), (records, streams)))

        # The app's user may not look up the machine's root, but it may stand in a directory there.
        load = machine.host(
            *(sys.executable, str(HERE / "load.py"), MODEL, PROMPT, "bedrock.sock"),
            **dict(uid=APP, cwd=machine.path("/run/bedrock-sidecar"), stdout=subprocess.PIPE),
        )
        try:
            until("the load", lambda: more_than(50, 5))
            pids = {show("MainPID")}
            for _ in range(3):
                before = counts()
                machine.shell(f"systemctl restart {SERVICE}")
                pids.add(show("MainPID"))
                until("more of the load", lambda: more_than(before[0] + 100, before[1] + 5))
        finally:
            load.terminate()
            done = json.loads(load.communicate(timeout=60)[0])
        self.assertEqual(len(pids), 4)
        self.assertEqual(done["failures"], [])
        for way, count in done["answered"].items():
            self.assertGreaterEqual(count, 20, way)
            self.assertEqual(len(done["lengths"][way]), 1, "all answers are the same")
        print(f"answered: {done['answered']}", file=sys.stderr)
        answered = sum(done["answered"].values())
        until("all records", lambda: len(self.records()) >= answered)
        records = self.records()
        self.assertEqual(len({record["requestId"] for record in records}), answered, "one record for each answer")
        self.assertEqual({(r["callerUid"], r["outcome"]) for r in records}, {(APP, "completed")})
        sources = {record["sourceIP"] for record in records}
        self.assertEqual(sources, {"127.0.0.1", "/run/bedrock-sidecar/bedrock.sock"})
        self.assertEqual(self.sent(), answered, "each was sent once")
        exported = [json.loads(line) for line in machine.shell("bedrock-sidecar audit export 2>/dev/null").splitlines()]
        kept = [record["requestId"] for record in exported if record.get("callerUid") == APP]
        self.assertEqual(sorted(kept), sorted(record["requestId"] for record in records), "the ledger has them all")
        self.assertIn("none changed, missing or inserted", machine.shell("bedrock-sidecar audit verify --source ledger"))
