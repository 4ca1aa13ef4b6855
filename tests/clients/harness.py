"""The processes a test needs: the simulator, a Secrets Manager, the daemon, and one program per SDK."""

import base64
import itertools
import json
import os
import queue
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / "target" / "clients"
BINARIES = Path(os.environ.get("BEDROCK_SIDECAR_BINARIES", ROOT / "target" / "debug"))

# The whole of a test's patience: generous, because nothing waits for it to pass when all is well.
DEADLINE = 60

SECRET = "cross-partition-commercial-creds"

# What a GovCloud host's SDK signs with. None of it may ever arrive at commercial Bedrock.
GOV_KEYS = {
    "AWS_ACCESS_KEY_ID": "ASIAGOVCLOUDEXAMPLE1",
    "AWS_SECRET_ACCESS_KEY": "govcloud/secret/access/key/EXAMPLEKEY001",
    "AWS_SESSION_TOKEN": "IQoJgovcloudSESSIONtokenEXAMPLE//////////",
    "AWS_REGION": "us-gov-west-1",
    "AWS_DEFAULT_REGION": "us-gov-west-1",
}

# What the simulator knows from its start.
COMMERCIAL_BEARER = (
    "ABSKQmVkcm9ja0FQSUtleS1hYmNkLWF0LTEyMzQ1Njc4OTAxMjpub3QtYS1yZWFsLXNlY3JldC1vbmx5LWZvci10aGUtc2ltdWxhdG9y"
)
ROTATED_BEARER = "ABSKQmVkcm9ja0FQSUtleS1yb3RhLWF0LTEyMzQ1Njc4OTAxMjphbm90aGVyLWZha2Utc2VjcmV0LWFmdGVyLXJvdGF0aW9u"
LONG_LIVED = {
    "aws_access_key_id": "AKIASIMULATOREXAMPLE",
    "aws_secret_access_key": "simulator/secret+access/key/EXAMPLEKEY01",
}
TEMPORARY = {
    "aws_access_key_id": "ASIASIMULATOREXAMPLE",
    "aws_secret_access_key": "simulator/temporary+secret/EXAMPLEKEY02",
    "aws_session_token": "FwoGZXIvYXdzEXAMPLE//simulator+session/token==",
}
COMMERCIAL_KEYS = {name.upper(): value for name, value in LONG_LIVED.items()} | {
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}
SECRETS = {
    "bearer": {"bedrock_api_key": COMMERCIAL_BEARER, "region": "us-east-1"},
    "sigv4": LONG_LIVED,
    "session": TEMPORARY,
    # With bedrock-mantle, and keys that sign, so that the simulator sees for which service.
    "mantle": LONG_LIVED,
}
UPSTREAM_SECRETS = [
    COMMERCIAL_BEARER,
    ROTATED_BEARER,
    LONG_LIVED["aws_secret_access_key"],
    TEMPORARY["aws_secret_access_key"],
    TEMPORARY["aws_session_token"],
]


def clean_environment(**extra):
    """The environment without anything that would steer an SDK."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "BEDROCK_", "ANTHROPIC_"))}
    return kept | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null"} | extra


def eventually(what, probe, deadline=DEADLINE):
    """Waits until `probe` gives something true, and returns it."""
    end = time.monotonic() + deadline
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < end, f"waited {deadline} s in vain: {what}"
        time.sleep(0.02)


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def http(method, url, document=None, headers=None):
    """One plain HTTP exchange: status, headers and body, whatever the status."""
    body = document if document is None or isinstance(document, bytes) else json.dumps(document).encode()
    request = urllib.request.Request(url, body, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


class Simulator:
    """Commercial Bedrock's stand-in. Clients go to `plain` directly, the daemon to `tls`."""

    def __init__(self, folder):
        command = [BINARIES / "bedrock-simulator", "--ca-out", folder / "simulator-ca.pem"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started = json.loads(self.process.stdout.readline())
        self.plain, self.tls, self.ca_file = started["plain"], started["tls"], started["ca_file"]
        self.agent_plain, self.agent_tls = started["agent_plain"], started["agent_tls"]
        self.mantle_tls = started["mantle_tls"]

    def _control(self, method, what, document=None):
        status, _, body = http(method, f"{self.plain}/_simulator/{what}", document)
        assert status == 200, body
        return json.loads(body)

    def requests(self):
        return self._control("GET", "requests")

    def from_daemon(self, operation=None):
        """What the daemon sent, in order."""
        return [r for r in self.requests() if r["tls"] and operation in (None, r["operation"])]

    def clear(self):
        self._control("DELETE", "requests")

    def fault(self, effect, times=0, **match):
        """Lies in wait for the requests that match; `times=0` until cleared."""
        self._control("POST", "faults", {"effect": effect, "times": times} | match)

    def clear_faults(self):
        self._control("DELETE", "faults")

    def credentials(self, **change):
        self._control("POST", "credentials", change)

    def gate(self, **change):
        return self._control("POST", "gate", change)

    def framing(self, name):
        """How the answers are written from now on: a framing's name or `random:SEED`; none for the ordinary way."""
        if name is None:
            self._control("DELETE", "framing")
        else:
            self._control("POST", "framing", {"framing": name})

    def reset(self):
        self.framing(None)
        self.clear_faults()
        self.gate(closed=False)
        self.credentials(reset=True)
        self.clear()

    def stop(self):
        stop(self.process)


class SecretsManager:
    """moto's, in GovCloud."""

    def __init__(self):
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        self.endpoint = "http://{}:{}".format(*self.server.get_host_and_port())
        self.client = boto3.client(
            "secretsmanager",
            region_name="us-gov-west-1",
            endpoint_url=self.endpoint,
            aws_access_key_id="AKIATESTFIXTURE",
            aws_secret_access_key="fixture",
        )

    def put(self, name, value):
        text = value if isinstance(value, str) else json.dumps(value)
        try:
            self.client.create_secret(Name=name, SecretString=text)
        except self.client.exceptions.ResourceExistsException:
            self.client.put_secret_value(SecretId=name, SecretString=text)

    def stop(self):
        self.server.stop()


class Daemon:
    """The daemon as an administrator starts it: a configuration file and an environment."""

    def __init__(
        self,
        folder,
        simulator,
        secrets,
        secret=SECRET,
        extra="",
        level="info",
        wait=True,
        keys=("AKIAHOSTROLEEXAMPLE1", "host/role/secret"),
        state=None,
        mantle=False,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.state = state or folder / "state"
        self.state.mkdir(exist_ok=True)
        self.config = folder / "config.toml"
        self.config.write_text(
            f"""
[listen]
addresses = ["127.0.0.1:0"]
admin_address = "127.0.0.1:0"

[[upstreams]]
region = "us-east-1"
runtime_endpoint = "{simulator.tls}"
control_endpoint = "{simulator.tls}"
agent_runtime_endpoint = "{simulator.agent_tls}"
ca_file = "{simulator.ca_file}"
mantle_endpoint = "{simulator.mantle_tls}"

[mantle]
enabled = {str(mantle).lower()}

[credentials]
source = "secrets_manager"
secret_id = "{secret}"
region = "us-gov-west-1"

[audit]
state_dir = "{self.state}"
table = ""

[log]
format = "json"
level = "{level}"

[models]
allow_profile_management = true
list = "all"

[[callers]]
name = "clients"
users = ["{os.getuid()}"]
operations = ["*", "*InferenceProfile"]
{extra}"""
        )
        environment = clean_environment(
            AWS_ACCESS_KEY_ID=keys[0],
            AWS_SECRET_ACCESS_KEY=keys[1],
            AWS_ENDPOINT_URL_SECRETS_MANAGER=secrets.endpoint,
            AWS_ENDPOINT_URL_STS=secrets.endpoint,
        )
        self.process = subprocess.Popen(
            [BINARIES / "bedrock-sidecar", "run", "--config", self.config],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            errors="replace",
        )
        self.lines = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True)
        self.reader.start()
        fields = eventually("the daemon's `listening`", self._listening)
        self.addresses = fields["addresses"]
        self.address = self.addresses[0]
        self.endpoint = f"http://{self.address}"
        self.admin = f"http://{fields['admin_address']}"
        if wait:
            eventually("the daemon's readiness", self.ready)

    def _listening(self):
        for line in list(self.lines):
            try:
                document = json.loads(line)
            except ValueError:
                continue
            fields = document | document.get("fields", {})
            if fields.get("message") == "listening":
                if isinstance(fields["addresses"], str):
                    fields["addresses"] = fields["addresses"].split(",")
                return fields
        assert self.process.poll() is None, f"the daemon ended: {''.join(self.lines)}"
        return None

    def ready(self):
        return http("GET", f"{self.admin}/ready")[0] == 200

    def idle(self):
        """No request is in flight, and each that was counted has its line in the log."""
        lines = http("GET", f"{self.admin}/metrics")[2].decode().splitlines()
        answered = sum(float(line.split()[-1]) for line in lines if line.startswith("bedrock_sidecar_requests_total"))
        return "bedrock_sidecar_in_flight 0" in lines and answered == len(self.records())

    def records(self, start=0):
        """The records of requests, from the log's line `start` on."""
        documents = (json.loads(line) for line in self.lines[start:] if line.startswith("{"))
        return [document for document in documents if document.get("message") == "request"]

    def log(self):
        return "".join(self.lines)

    def stop(self):
        """Ends it; after that, the whole log is there."""
        stop(self.process)
        self.reader.join(DEADLINE)


COMMANDS = {
    "boto3": [CACHE / "py/bin/python", HERE / "python/boto3_client.py"],
    "awscli": [CACHE / "py/bin/python", HERE / "python/awscli_client.py"],
    "anthropic": [CACHE / "py/bin/python", HERE / "python/anthropic_client.py"],
    "js": ["node", CACHE / "js/client.mjs"],
    "go": [CACHE / "bin/go-client"],
    "java": ["java", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-cp", f"{CACHE}/java/classes:{CACHE}/java/lib/*", "Client"],
}
COMMANDS["java-url"] = COMMANDS["java"]
COMMANDS["bidirectional"] = [CACHE / "bidirectional/bin/python", HERE / "python/bidirectional_client.py"]
EXTRA_ENVIRONMENT = {"awscli": {"AWS_CLI": str(CACHE / "aws/bin/aws")}, "java-url": {"HTTP_CLIENT": "url-connection"}}


class Client:
    """One SDK's program, pointed at one endpoint; it keeps its connections as an application does."""

    def __init__(self, name, endpoint, keys, agent_endpoint=None, **extra):
        # Bedrock has a host of its own for Rerank; the daemon serves it with all else.
        endpoints = {"ENDPOINT": endpoint, "AGENT_ENDPOINT": agent_endpoint or endpoint}
        environment = clean_environment(PYTHONDONTWRITEBYTECODE="1", **endpoints, **keys, **extra)
        self.name = name
        self.process = subprocess.Popen(
            COMMANDS[name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment | EXTRA_ENVIRONMENT.get(name, {}),
            text=True,
        )
        self.ids = itertools.count(1)
        self.answers = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.answers.put(json.loads(line))
        self.answers.put({"ended": True})

    def start(self, case, **fields):
        """Asks for a case, and leaves its answers to `next`."""
        self.asked = next(self.ids)
        self.process.stdin.write(json.dumps({"id": self.asked, "case": case} | fields) + "\n")
        self.process.stdin.flush()

    def next(self, deadline=DEADLINE):
        """The next thing the program says: `("event", kind)` or `("done", outcome)`."""
        while True:
            try:
                answer = self.answers.get(timeout=deadline)
            except queue.Empty:
                raise AssertionError(f"{self.name} said nothing for {deadline} s") from None
            assert "ended" not in answer, f"the program of {self.name} ended"
            if answer["id"] == self.asked:
                return ("done", answer["done"]) if "done" in answer else ("event", answer["event"])

    def run(self, case, **fields):
        """Runs a case to its end: `{"ok", "result"}` or `{"ok", "error", "events"}`."""
        self.start(case, **fields)
        while True:
            kind, what = self.next()
            if kind == "done":
                return what

    def stop(self):
        stop(self.process)


def body_of(request):
    return base64.b64decode(request["body"])
