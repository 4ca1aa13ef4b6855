"""The daemon of the examples for containers, as their files start it. There is no container here: a machine has the users
and the folders that one would have. `packaging/aws/test.sh` checks the shape of the files."""

import json
import re
import subprocess
import textwrap
import unittest

from installed import KEY, MODEL, PROMPT, Host
from machine import root, until
from packages import DEB, FOLDER, ROOT

EXAMPLES = ROOT / "packaging/examples"
DAEMON, APP, OTHER = 10002, 10001, 10003
SIMULATOR = """
[[upstreams]]
region = "us-east-1"
runtime_endpoint = "http://127.0.0.1:9000"
control_endpoint = "http://127.0.0.1:9000"
"""
# What needs a network or AWS: the credential comes from the environment, and records stay here.
SECRETS = re.compile(r'source = "secrets_manager"\nsecret_id = .*\nregion = .*\n')
TABLE = re.compile(r'table = .*\nregion = .*\n')


def local(configuration: str) -> str:
    configuration, tables = TABLE.subn("", configuration)
    assert tables == 1, configuration
    return SECRETS.sub('source = "environment"\n', configuration) + SIMULATOR


class Containers(unittest.TestCase):
    def machine(self) -> Host:
        host = self.enterContext(Host())
        host.shell(
            f"DEBIAN_FRONTEND=noninteractive apt-get install --yes /packages/first/{DEB['first'].name};"
            "systemd-run --quiet --unit=simulator /usr/bin/bedrock-simulator --plain 127.0.0.1:9000 --record-limit 0"
        )
        until("the simulator", lambda: ":9000 " in host.shell("ss -Hltn"))
        return host

    def start(self, host: Host, command: list[str], environment: dict[str, str]) -> None:
        """Starts the daemon's container."""
        # Read-only but for its volumes, without rights, and with a user that has no name, as the files say.
        sandbox = ["ProtectSystem=strict", "ReadWritePaths=/run/bedrock-sidecar /var/lib/bedrock-sidecar"]
        user = ["setpriv", f"--reuid={DAEMON}", f"--regid={DAEMON}", "--clear-groups", "--bounding-set=-all", "--no-new-privs"]
        options = [f"--property={line}" for line in sandbox]
        options += [f"--setenv={name}={value}" for name, value in environment.items()]
        done = host.run("systemd-run", "--quiet", "--unit=container", *options, *user, *command)
        self.assertEqual(done.returncode, 0, done.stdout)

    def ask(self, host: Host, uid: int, *how: str) -> int:
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        ask = ["curl", "-sS", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code}", "-d", PROMPT, *how]
        done = host.run(*user, *ask, "-H", "content-type: application/json", f"http://127.0.0.1:8790{MODEL}")
        self.assertEqual(done.returncode, 0, done.stdout)
        return int(done.stdout)

    def callers(self, host: Host) -> list[tuple]:
        text = host.shell("journalctl -q --sync; journalctl -q -u container -o cat")
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        ends = [line for line in lines if line.get("message") == "request"]
        return [(end["callerUid"], end.get("caller"), end["outcome"]) for end in ends]

    def test_the_task_of_ecs_serves_its_app_and_nobody_else(self) -> None:
        task = json.loads((EXAMPLES / "ecs-task.json").read_text())
        daemon, app = task["containerDefinitions"]
        self.assertEqual((daemon["user"], app["user"]), (f"{DAEMON}:{DAEMON}", f"{APP}:{APP}"))
        environment = {variable["name"]: variable["value"] for variable in daemon["environment"]}
        environment["CONFIG"] = local(environment["CONFIG"])
        environment |= {secret["name"]: KEY for secret in daemon["secrets"]}
        host = self.machine()
        folders = [mount["containerPath"] for mount in daemon["mountPoints"]]
        host.shell(f"install -d -o {DAEMON} -g {DAEMON} {' '.join(folders)}")
        # systemd would put its own variables in.
        command = [text.replace("$", "$$") for text in daemon["entryPoint"] + daemon["command"]]
        self.start(host, command, environment)
        check, *probe = daemon["healthCheck"]["command"]
        self.assertEqual(check, "CMD")
        until("readiness", lambda: host.run(*probe).returncode == 0)
        endpoints = {v["value"] for v in app["environment"] if v["name"].startswith("AWS_ENDPOINT_URL")}
        self.assertEqual(endpoints, {"http://127.0.0.1:8790"})
        self.assertEqual((self.ask(host, APP), self.ask(host, OTHER)), (200, 403))
        until("two records", lambda: len(self.callers(host)) == 2)
        self.assertEqual(self.callers(host), [(APP, "my-app", "completed"), (OTHER, None, "refused")])

    def test_the_pod_of_kubernetes_serves_its_app_by_loopback_and_by_the_socket(self) -> None:
        text = (EXAMPLES / "kubernetes.yaml").read_text()
        configuration = textwrap.dedent(re.search(r"config\.toml: \|\n((?:    .*\n|\n)+)", text)[1])
        (probe,) = re.findall(r"exec: \{command: \[(.*)\]\}", text)
        (args,) = re.findall(r"args: \[(.*)\]", text)
        host = self.machine()
        host.put("/etc/bedrock-sidecar/config.toml", local(configuration))
        # What emptyDir and fsGroup make of a volume.
        host.shell(
            "for folder in /run/bedrock-sidecar /var/lib/bedrock-sidecar; do"
            f"  mkdir -p $folder; chown root:{DAEMON} $folder; chmod 2777 $folder; done"
        )
        self.start(host, ["bedrock-sidecar", *args.split(", ")], {"AWS_BEARER_TOKEN_BEDROCK": KEY})
        until("readiness", lambda: host.run(*probe.split(", ")).returncode == 0)
        socket = ("--unix-socket", "/run/bedrock-sidecar/bedrock.sock")
        answers = [self.ask(host, APP), self.ask(host, APP, *socket), self.ask(host, OTHER, *socket)]
        self.assertEqual(answers, [200, 200, 403])
        until("three records", lambda: len(self.callers(host)) == 3)
        admitted = (APP, "my-app", "completed")
        self.assertEqual(self.callers(host), [admitted, admitted, (OTHER, None, "refused")])

    def test_the_image_holds_what_its_containers_need(self) -> None:
        text = (EXAMPLES / "Containerfile").read_text().replace("\\\n", " ")
        instructions = dict(line.split(" ", 1) for line in text.splitlines() if re.match("[A-Z]+ ", line))
        # Without a network; and the root here has systemd, which stands in for the smaller package.
        script = instructions["RUN"].replace("apt-get update     && ", "").replace(" systemd-standalone-sysusers", "")
        self.assertNotEqual(len(script), len(instructions["RUN"]))
        check = [*json.loads(instructions["ENTRYPOINT"]), "--version"]
        inside = (
            f"cp /packages/first/{DEB['first'].name} /tmp/bedrock-sidecar.deb; export DEBIAN_FRONTEND=noninteractive;"
            f"{script};"
            f"stat -c '%n %u %a' {' '.join(json.loads(instructions['VOLUME']))};"
            f"setpriv --reuid={DAEMON} --regid={DAEMON} --clear-groups {' '.join(check)}"
        )
        # Nothing but this shell runs in there, as in a build of an image.
        command = ["systemd-nspawn", "--quiet", "-D", root(), "--volatile=overlay", "--register=no", "--keep-unit"]
        command += ["--private-network", "--as-pid2", "--pipe", f"--machine=image-{id(self)}", f"--bind-ro={FOLDER}:/packages"]
        done = subprocess.run(
            [*command, "sh", "-ec", inside], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn(f"/var/lib/bedrock-sidecar {DAEMON} 700\n/run/bedrock-sidecar {DAEMON} 755\n", done.stdout)
        self.assertRegex(done.stdout, r"\nbedrock-sidecar \d+\.\d+\.\d+")
        self.assertEqual(instructions["USER"], f"{DAEMON}:{DAEMON}")
        self.assertEqual(json.loads(instructions["CMD"])[0], "run")
