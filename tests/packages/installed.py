"""A machine with the packages at hand and a simulated Bedrock; what tests of both kinds of package ask of it."""

import json
import re
import subprocess
import sys
from pathlib import Path

from machine import Machine, until
from packages import BINARIES, FOLDER

SERVICE = "bedrock-sidecar.service"
SOCKET = "bedrock-sidecar-listen.socket"
CONFIG = "/etc/bedrock-sidecar/config.toml"
APP = 4321  # an app's user
# The simulator's own.
KEY = "ABSKQmVkcm9ja0FQSUtleS1hYmNkLWF0LTEyMzQ1Njc4OTAxMjpub3QtYS1yZWFsLXNlY3JldC1vbmx5LWZvci10aGUtc2ltdWxhdG9y"
MODEL = "/model/amazon.nova-lite-v1%3A0/converse"
PROMPT = json.dumps({"messages": [{"role": "user", "content": [{"text": "hello"}]}]})

# In the place of the secret's name, and what the simulator needs.
CREDENTIALS = """source = "file"
file = "$CREDENTIALS_DIRECTORY/bedrock"
"""
BESIDE = """
[listen]
unix_socket = "/run/bedrock-sidecar/bedrock.sock"
[[upstreams]]
region = "us-east-1"
runtime_endpoint = "http://127.0.0.1:9000"
control_endpoint = "http://127.0.0.1:9000"
"""


class Host(Machine):
    def __init__(self) -> None:
        super().__init__({"ro:/packages": FOLDER, "ro:/usr/bin/bedrock-simulator": BINARIES / "bedrock-simulator"})

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def show(self, what: str, unit: str = SERVICE) -> str:
        return self.shell(f"systemctl show --value -p {what} {unit}").strip()

    def states(self) -> list[str]:
        """Of the service and its socket unit."""
        return [self.show("ActiveState", unit) for unit in (SERVICE, SOCKET)]

    def enabled(self) -> list[str]:
        """Of the service and its socket unit."""
        return [self.run("systemctl", "is-enabled", unit).stdout.split()[-1] for unit in (SERVICE, SOCKET)]

    def listens(self) -> list[str]:
        """The ports that something listens at, but for the simulator's."""
        lines = [line.split() for line in self.shell("ss -Hltnp").splitlines() if "bedrock-simulat" not in line]
        return sorted(fields[3].rpartition(":")[2] for fields in lines)

    def exists(self, *paths: str) -> list[bool]:
        return [self.run("test", "-e", path).returncode == 0 for path in paths]

    def configure(self) -> None:
        """As an admin would who keeps the credential in a file, with the examples that the package brings."""
        examples = "/usr/share/doc/bedrock-sidecar/examples/systemd"
        self.shell(
            f"groupadd --gid {APP} bedrock-apps;"
            f"install -D {examples}/credential.conf /etc/systemd/system/{SERVICE}.d/credential.conf;"
            f"install -D {examples}/unix-socket.conf /etc/systemd/system/{SOCKET}.d/unix-socket.conf;"
            "systemctl daemon-reload;"
            "systemd-run --quiet --unit=simulator /usr/bin/bedrock-simulator --plain 127.0.0.1:9000 --record-limit 0"
        )
        packaged = self.shell(f"cat {CONFIG}")
        configured = re.sub(r'source = .*\nsecret_id = .*\nregion = .*\n', CREDENTIALS, packaged) + BESIDE
        assert CREDENTIALS in configured
        self.put(CONFIG, configured)
        self.put("/etc/bedrock-sidecar/credential", KEY, 0o600)
        until("the simulator", lambda: ":9000 " in self.shell("ss -Hltn"))

    def start(self) -> None:
        """Enables and starts it as README says, and waits until it is ready."""
        done = self.run("systemctl", "enable", "--now", "bedrock-sidecar")
        assert done.returncode == 0, done.stdout + self.shell(f"journalctl -u {SERVICE} -u {SOCKET} -o short-precise")
        until("readiness", lambda: self.run("curl", "-sf", "http://127.0.0.1:8791/ready").returncode == 0)

    def ask(self) -> int:
        """One request of the app: its status."""
        done = self.run(
            *("setpriv", f"--reuid={APP}", f"--regid={APP}", "--clear-groups", "curl", "-sS", "--max-time", "30"),
            *("-H", "content-type: application/json", "-o", "/dev/null", "-w", "%{http_code}"),
            *("-d", PROMPT, f"http://127.0.0.1:8790{MODEL}"),
        )
        assert done.returncode == 0, done.stdout
        return int(done.stdout)

    def records(self) -> list[dict]:
        """The ends of requests, as the daemon logs them."""
        text = self.shell(f"journalctl -q --sync; journalctl -q -u {SERVICE} -o cat _COMM=bedrock-sidecar")
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("message") == "request"]

    def runs_installed_program(self) -> bool:
        return not self.shell(f"readlink /proc/{self.show('MainPID')}/exe").strip().endswith("(deleted)")


class Load:
    """Requests of an app, all the time; `with` waits until they flow."""

    def __init__(self, host: Host):
        self.host = host

    def __enter__(self) -> "Load":
        # The app's user may not look up the machine's root, but it may stand in a directory there.
        self.process = self.host.host(
            *(sys.executable, str(Path(__file__).parents[1] / "booted/load.py"), MODEL, PROMPT, "bedrock.sock"),
            **dict(uid=APP, cwd=self.host.path("/run/bedrock-sidecar"), stdout=subprocess.PIPE),
        )
        self.more()
        return self

    def more(self) -> None:
        """Waits for more of it."""
        before = len(self.host.records())
        until("more of the load", lambda: len(self.host.records()) > before + 50)

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.done = json.loads(self.process.communicate(timeout=60)[0])
