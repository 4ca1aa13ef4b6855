"""Who is measured: how each is configured, started and ended. All put a credential of their own in the place of the
client's, keep connections to the upstream, verify its certificate, and write a line for each request."""

import contextlib
import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Template

import build
import programs
from rig import Rig, bare_environment, end, free_port, processes, until_answers, until_open, until_ready

# As long as a key of Bedrock, and in its form.
KEY = "ABSK" + "bm90LWEtcmVhbC1iZWRyb2NrLWtleS1" * 4
KEYS = {
    "aws_access_key_id": "AKIACOMMERCIALEXAMPLE",
    "aws_secret_access_key": "not/a/real/secret/but/forty/characters/l",
}
CONNECTIONS = 8192

NGINX = Template("""
$user
daemon off;
worker_processes $threads;
worker_rlimit_nofile 65536;
pid "$folder/nginx.pid";
error_log "$folder/nginx-error.log";
events { worker_connections $connections; }
http {
    access_log "$folder/nginx.log" combined;
    client_body_temp_path "$folder/nginx-body";
    proxy_temp_path "$folder/nginx-proxy";
    fastcgi_temp_path "$folder/nginx-fastcgi";
    uwsgi_temp_path "$folder/nginx-uwsgi";
    scgi_temp_path "$folder/nginx-scgi";
    client_max_body_size 25m;
    keepalive_requests 100000000;
    upstream bedrock {
        server 127.0.0.1:$upstream;
        keepalive 1024;
        keepalive_requests 100000000;
    }
    server {
        listen 127.0.0.1:$port backlog=1024;
        location / {
            proxy_pass https://bedrock;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Authorization "Bearer $key";
            proxy_set_header X-Amz-Date "";
            proxy_ssl_protocols TLSv1.3;
            proxy_ssl_name localhost;
            proxy_ssl_server_name on;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate "$ca";
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 15m;
        }
    }
}
""")

HAPROXY = Template("""
global
    nbthread $threads
    maxconn $connections
    log stdout format raw local0
    ssl-default-server-options ssl-min-ver TLSv1.3
defaults
    mode http
    log global
    option httplog
    option http-no-delay
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 15m
listen bedrock
    bind 127.0.0.1:$port
    http-request set-header authorization "Bearer $key"
    http-request del-header x-amz-date
    server upstream 127.0.0.1:$upstream ssl verify required verifyhost localhost sni str(localhost) ca-file "$ca" alpn $alpn
""")

DAEMON = Template("""
[listen]
addresses = ["127.0.0.1:$port"]
admin_address = "127.0.0.1:$admin"
max_connections = $connections
max_connections_per_user = $connections

[[upstreams]]
region = "us-east-1"
runtime_endpoint = "https://localhost:$upstream"
control_endpoint = "https://localhost:$upstream"
ca_file = "$ca"

[credentials]
source = "file"
file = "$folder/secret"

[limits]
requests_per_minute = 100000000
concurrent_requests = 100000
tokens_per_minute = 1000000000000
tokens_per_day = 1000000000000

[runtime]
threads = $threads

# Under valgrind, and of thousands at once, a handshake may take longer than the default.
[upstream_timeouts]
connect = "60s"

[audit]
table = "$table"
region = "us-gov-west-1"
max_ledger_bytes = $ledger_bytes
$more
""")


@dataclasses.dataclass
class Running:
    """Somebody who can be measured."""

    address: str
    processes: list[int]
    #: What tells the load to speak TLS.
    tls: dict[str, Path] = dataclasses.field(default_factory=dict)
    #: From the start of the process until it can serve.
    start_ms: float | None = None
    #: It holds an answer until it is whole, so that nothing streams.
    holds_answers: bool = False


@dataclasses.dataclass
class Subject:
    name: str
    start: Callable[[Rig], contextlib.AbstractContextManager[Running]]


@contextlib.contextmanager
def direct(rig: Rig) -> Iterator[Running]:
    yield Running(f"127.0.0.1:{rig.ports['http1']}", [], {"ca": rig.ca})


@contextlib.contextmanager
def process(command: list, log: Path, ready, port: int, environment: dict[str, str]) -> Iterator[Running]:
    """Runs a proxy, whose log goes to a file."""
    begun = time.monotonic()
    with log.open("wb") as lines:
        running = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=lines, stderr=lines)
    try:
        try:
            ready(running)
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {log.read_text(errors='replace')[-2000:]}") from None
        taken = (time.monotonic() - begun) * 1000
        yield Running(f"127.0.0.1:{port}", processes(running.pid), start_ms=taken)
    finally:
        end(running)


@contextlib.contextmanager
def nginx(rig: Rig) -> Iterator[Running]:
    program, environment = programs.find("nginx")
    port = free_port()
    # As root it would give its workers a user who cannot enter the folder.
    user = "user root;" if os.getuid() == 0 else ""
    with rig.place("nginx") as name:
        folder = Path(name)
        values = common(rig) | {"folder": folder, "port": port, "upstream": rig.ports["http1"], "user": user}
        (folder / "nginx.conf").write_text(NGINX.substitute(values))
        command = [program, "-p", folder, "-c", folder / "nginx.conf", *programs.early_log(folder / "nginx-start.log")]
        ready = lambda it: until_answers(port, it, build.threads())  # noqa: E731
        with process(command, folder / "nginx.out", ready, port, {**os.environ, **environment}) as running:
            yield running


def haproxy(protocol: str) -> Callable[[Rig], contextlib.AbstractContextManager[Running]]:
    @contextlib.contextmanager
    def start(rig: Rig) -> Iterator[Running]:
        program, environment = programs.find("haproxy")
        port = free_port()
        alpn = {"http1": "http/1.1", "http2": "h2"}[protocol]
        values = common(rig) | {"port": port, "upstream": rig.ports[protocol], "alpn": alpn}
        with rig.place("haproxy") as name:
            config, log = Path(name) / "haproxy.cfg", Path(name) / "haproxy.log"
            config.write_text(HAPROXY.substitute(values))
            command, ready = [program, "-db", "-f", config], lambda it: until_answers(port, it, 0)
            with process(command, log, ready, port, {**os.environ, **environment}) as running:
                yield running

    return start


@contextlib.contextmanager
def bare(rig: Rig) -> Iterator[Running]:
    """The libraries that the daemon is made with, and nothing else; it writes no line for a request."""
    port = free_port()
    options = {"port": port, "upstream": rig.ports["http1"], "ca": rig.ca, "key": KEY, "threads": build.threads()}
    command = [rig.programs.load, "bare", *(f"--{name}={value}" for name, value in options.items())]
    with rig.place("bare") as name:
        with process(command, Path(name) / "log", lambda it: until_open(port, it), port, dict(os.environ)) as running:
            yield running


@contextlib.contextmanager
def signer(rig: Rig) -> Iterator[Running]:
    """aws-sigv4-proxy signs and forwards; it writes no line for a request."""
    program, port = programs.signer(), free_port()
    options = f"--name bedrock --region us-east-1 --host localhost:{rig.ports['http1']} --port 127.0.0.1:{port}".split()
    strip = ["--strip", "Authorization", "--strip", "X-Amz-Date"]
    command, ready = [program, *options, *strip], lambda it: until_answers(port, it, 0)
    with rig.place("signer") as folder:
        environment = bare_environment(folder) | {"SSL_CERT_FILE": str(rig.ca), "GOMAXPROCS": str(build.threads())}
        environment |= {"AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"], "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"]}
        with process(command, Path(folder) / "log", ready, port, environment) as running:
            yield dataclasses.replace(running, holds_answers=True)


def daemon(
    protocol: str,
    signs: bool = False,
    table: str = "",
    more: Callable[[Path], str] = lambda _: "",
    state: Path | None = None,
    ledger_bytes: int = 10 << 30,
    connections: int = CONNECTIONS,
):
    """The daemon takes the protocol that the upstream offers, HTTP/2 before HTTP/1.1. `more` makes a part of the
    configuration, with its files in the folder that it is given. Records go to a `state` of its own unless one is given."""

    @contextlib.contextmanager
    def start(rig: Rig) -> Iterator[Running]:
        with rig.place("daemon") as name:
            folder = Path(name)
            kept = state or folder / "state"
            kept.mkdir(parents=True, exist_ok=True)
            (folder / "secret").touch(0o600)
            (folder / "secret").write_text(json.dumps(KEYS) if signs else KEY)
            port, admin = free_port(), free_port()
            values = common(rig) | {"folder": folder, "port": port, "admin": admin, "upstream": rig.ports[protocol]}
            values |= {"table": "requests" if table else "", "ledger_bytes": ledger_bytes, "more": more(folder)}
            values["connections"] = connections
            (folder / "config.toml").write_text(DAEMON.substitute(values))
            environment = bare_environment(str(folder)) | {"STATE_DIRECTORY": str(kept)}
            if table:
                environment |= rig.table(table)
            command = [*rig.wrapper, rig.programs.daemon, "run", "--config", folder / "config.toml"]
            with process(command, folder / "log", lambda it: until_ready(admin, it), port, environment) as running:
                yield running

    return start


def common(rig: Rig) -> dict[str, object]:
    return {"ca": rig.ca, "key": KEY, "threads": build.threads(), "connections": CONNECTIONS}


DIRECT = "upstream itself"
ALL = [
    Subject(DIRECT, direct),
    Subject("nginx", nginx),
    Subject("HAProxy", haproxy("http1")),
    Subject("HAProxy, HTTP/2 up", haproxy("http2")),
    Subject("aws-sigv4-proxy", signer),
    Subject("hyper and rustls alone", bare),
    Subject("ours", daemon("http1")),
    Subject("ours, HTTP/2 up", daemon("http2")),
    Subject("ours, SigV4", daemon("http1", signs=True)),
    Subject("ours, table that answers at once", daemon("http1", table="stand-in")),
    Subject("ours, DynamoDB Local beside it", daemon("http1", table="DynamoDB Local")),
]
