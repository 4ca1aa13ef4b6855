"""What stands around a proxy while it is measured: certificates, the upstream, a table, the load."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from build import ROOT, TARGET, Programs
from programs import NotRun

PATIENCE = 60
#: Under it is all that a proxy writes, so that it is measured on the disk that holds the build.
FOLDER = TARGET / "compare"
#: Asks this machine, whatever proxy the environment names.
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Rig:
    """An upstream that runs, and a folder for everything else; both end with it."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.database: Database | None = None
        #: Words before the daemon's command, such as a profiler.
        self.wrapper: list[str] = []

    def __enter__(self) -> "Rig":
        FOLDER.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            self.folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="rig-", dir=FOLDER)))
            self.certificates()
            held.callback(end, self.start_upstream())
            self.held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self.held:
            if self.database:
                end(self.database.process)

    def place(self, name: str) -> tempfile.TemporaryDirectory:
        """A folder for one of those that are measured, which ends with it."""
        return tempfile.TemporaryDirectory(prefix=f"{name}-", dir=self.folder)

    def start_upstream(self, *options: str) -> subprocess.Popen:
        """Daemons that start from now on ask this one."""
        command = [self.programs.load, "upstream", "--certificate", "upstream.pem", "--key", "upstream.key", *options]
        started = subprocess.Popen(command, cwd=self.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert started.stdout
        line = started.stdout.readline()
        if not line:
            end(started)
            raise RuntimeError("the upstream did not start")
        self.ports: dict[str, int] = json.loads(line)
        return started

    @contextlib.contextmanager
    def upstream_with(self, *options: str) -> Iterator[None]:
        """Meanwhile an upstream with these options takes the place of the usual one."""
        usual = self.ports
        started = self.start_upstream(*options)
        try:
            yield
        finally:
            end(started)
            self.ports = usual

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def certificates(self) -> None:
        """An authority, and a certificate of it for the upstream."""
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
        names = self.folder / "names"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        for command in [
            ["req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=compare"],
            ["req", *curve, "-keyout", "upstream.key", "-out", "upstream.csr", "-subj", "/CN=localhost"],
            "x509 -req -days 30 -CAcreateserial -in upstream.csr -CA ca.pem -CAkey ca.key -out upstream.pem".split()
            + ["-extfile", "names"],
        ]:
            subprocess.run(["openssl", *command], cwd=self.folder, check=True, capture_output=True)

    def table(self, kind: str) -> dict[str, str]:
        """The environment in which the daemon finds a table: the stand-in of bench-load, which keeps nothing, or
        DynamoDB Local, which is started once."""
        port = self.ports["table"]
        if kind == "DynamoDB Local":
            self.database = self.database or Database()
            port = self.database.port
        return {
            "AWS_ENDPOINT_URL_DYNAMODB": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "AKIATEST",
            "AWS_SECRET_ACCESS_KEY": "not-a-real-secret",
        }

    def load(self, command: str, to: str, **options: object) -> dict:
        """Runs one command of bench-load."""
        words = [str(self.programs.load), command, to]
        for name, value in options.items():
            for one in value if isinstance(value, list) else [value]:
                words += [f"--{name.replace('_', '-')}", str(one)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"bench-load {command} ended with {done.returncode}: {done.stderr.strip()}")
        return json.loads(done.stdout)


class Database:
    """DynamoDB Local, with the table of records. It takes any signature."""

    def __init__(self) -> None:
        found = subprocess.run([ROOT / "tests" / "dynamodb-local"], capture_output=True, text=True)
        if found.returncode:
            raise NotRun(f"DynamoDB Local cannot be had: {found.stderr.strip()}")
        self.port = free_port()
        server = "com.amazonaws.services.dynamodbv2.local.main.ServerRunner"
        options = ["-Xmx512m", "-Djava.library.path=lib", "-cp", "lib/*", server, "-inMemory", "-disableTelemetry"]
        self.process = subprocess.Popen(
            ["java", *options, "-port", str(self.port)],
            cwd=found.stdout.strip(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self.prepare()
        except BaseException:
            end(self.process)
            raise

    def prepare(self) -> None:
        until_open(self.port, self.process)
        key = [("requestId", "HASH"), ("timestamp", "RANGE")]
        table = {
            "TableName": "requests",
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name, _ in key],
            "KeySchema": [{"AttributeName": name, "KeyType": kind} for name, kind in key],
        }
        self.call("CreateTable", table)

    def call(self, operation: str, body: dict) -> None:
        credential = "Credential=AKIATEST/20260101/us-gov-west-1/dynamodb/aws4_request"
        headers = {
            "content-type": "application/x-amz-json-1.0",
            "x-amz-target": f"DynamoDB_20120810.{operation}",
            "authorization": f"AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0",
        }
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}", json.dumps(body).encode(), headers)
        LOCAL.open(request, timeout=PATIENCE).close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def until_open(port: int, process: subprocess.Popen | None = None) -> None:
    """Waits until somebody listens; a process that ends meanwhile never will."""
    wait(lambda: is_open(port), f"port {port} to open", process)


def until_answers(port: int, process: subprocess.Popen, count: int) -> None:
    """Waits until requests are answered, and the process has so many children."""
    wait(lambda: answers(port) and len(processes(process.pid)) > count, "an answer", process)


def until_ready(port: int, process: subprocess.Popen) -> None:
    """Waits until /ready answers 200."""
    wait(lambda: is_ready(port), "readiness", process)


def wait(condition, what: str, process: subprocess.Popen | None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process and process.poll() is not None:
            raise RuntimeError(f"waited for {what}, but the process ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited in vain for {what}")
        time.sleep(0.002)


def is_open(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def answers(port: int) -> bool:
    try:
        LOCAL.open(f"http://127.0.0.1:{port}/", timeout=PATIENCE).close()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 404
    except OSError:
        return False
    return True


def is_ready(port: int) -> bool:
    try:
        with LOCAL.open(f"http://127.0.0.1:{port}/ready", timeout=PATIENCE) as answer:
            return answer.status == 200
    except OSError:
        return False


def processes(first: int) -> list[int]:
    """A process and its children."""
    found = [first]
    for task in Path(f"/proc/{first}/task").iterdir():
        # A thread may have ended since it was listed.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in (task / "children").read_text().split():
                found += processes(int(child))
    return found


def end(process: subprocess.Popen) -> None:
    if process.stdin:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_in_order() -> None:
    """Has SIGTERM end this program as an exception does, so that what it has started ends too, and no folder stays.
    `timeout` sends it twice."""

    def ended(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(143)

    signal.signal(signal.SIGTERM, ended)


def bare_environment(home: str) -> dict[str, str]:
    """The environment for a daemon: nothing but what is needed, and no look for the host's own role."""
    return {"PATH": os.environ["PATH"], "HOME": home, "AWS_EC2_METADATA_DISABLED": "true"}
