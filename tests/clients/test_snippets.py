"""The programs of docs/apps.md, unchanged but for the daemon's address, in an environment with what `bedrock-sidecar env`
prints; and what that page says of the settings that get in the way."""

import os
import re
import socketserver
import subprocess
import threading

import pytest

from conftest import NOT_RUN
from harness import BINARIES, CACHE, GOV_KEYS, HERE, ROOT, clean_environment, eventually

PAGE = (ROOT / "docs/apps.md").read_text()
ADDRESS = "http://127.0.0.1:8790"
NOVA = "amazon.nova-lite-v1:0"
HAIKU = "anthropic.claude-3-haiku-20240307-v1:0"
SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
GPT = "openai.gpt-oss-120b"
OPUS = "anthropic.claude-opus-4-7"

# A paragraph that ends in a colon, and the fenced block after it. The paragraph's beginning is the block's name.
BLOCK = re.compile(r"^(?P<name>[^\n]+?)(?: \([^\n]*|\. [^\n]*|)(?:\n[^\n]+)*:\n\n```\w+\n(?P<program>.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {found["name"].strip(): found["program"] for found in BLOCK.finditer(PAGE)}


def python(environment):
    return lambda folder, program: [CACHE / environment / "bin/python", written(folder, "hello.py", program)]


def shell(folder, program):
    return ["sh", "-euc", f'PATH="{CACHE}/aws/bin:$PATH"\n{program}']


def javascript(folder, program):
    (folder / "node_modules").symlink_to(CACHE / "js/node_modules")
    return ["node", written(folder, "hello.mjs", program)]


def go(folder, program):
    written(folder, "main.go", program)
    for name in ["go.mod", "go.sum"]:
        written(folder, name, (HERE / "go" / name).read_text())
    return ["go", "run", "."]


def java(folder, program):
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{CACHE}/java/lib/*", written(folder, "Hello.java", program)]


def rust(folder, program):
    """Compiled with the workspace, because to compile the SDK for this alone takes minutes."""
    assert program == (HERE / "rust/snippet.rs").read_text(), "tests/clients/rust/snippet.rs is not what docs/apps.md shows"
    return [BINARIES / "examples/snippet"]


def claude_code(model):
    """The block only sets the environment. What else Claude Code would ask the internet for is left out."""

    def how(folder, program):
        program += 'export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 HOME="$PWD"\n'
        program += f'exec "{CACHE}/claude-code/node_modules/.bin/claude" --model {model} --print Hello\n'
        return ["sh", "-euc", program]

    return how


def codex(folder, program):
    """The block is its configuration. It may not look at the machine, nor ask the internet for anything."""
    written(folder, "config.toml", program + "\n[analytics]\nenabled = false\n")
    command = f'"{CACHE}/codex/node_modules/.bin/codex" exec --skip-git-repo-check --sandbox read-only Hello'
    return ["sh", "-euc", f'export CODEX_HOME="$PWD" HOME="$PWD" BEDROCK_SIDECAR_KEY=any\nexec {command}\n']


def written(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


# name: what must be installed, how it is run, the operation and the model that the record must have.
RUN = {
    "Python, boto3": ("boto3", python("py"), "Converse", NOVA),
    "AWS CLI": ("awscli", shell, "Converse", NOVA),
    "JavaScript, SDK v3": ("js", javascript, "Converse", NOVA),
    "Go, SDK v2": ("go", go, "Converse", NOVA),
    "Java, SDK v2": ("java", java, "Converse", NOVA),
    "C#, SDK for .NET v4": ("csharp", None, "Converse", NOVA),
    "Rust": ("rust", rust, "Converse", NOVA),
    "LangChain": ("frameworks", python("frameworks"), "Converse", NOVA),
    "LlamaIndex": ("frameworks", python("frameworks"), "Converse", NOVA),
    "Strands Agents": ("frameworks", python("frameworks"), "ConverseStream", NOVA),
    "Anthropic's SDK": ("anthropic", python("py"), "InvokeModel", HAIKU),
    "OpenAI's SDK": ("frameworks", python("frameworks"), "ChatCompletions", "openai.gpt-oss-20b-1:0"),
    "Vercel AI SDK": ("js", javascript, "Converse", NOVA),
    "Claude Code": ("claudecode", claude_code(SONNET), "InvokeModelWithResponseStream", SONNET),
    "OpenAI's SDK and bedrock-mantle": ("frameworks", python("frameworks"), "MantleResponses", GPT),
    "OpenAI's client for Bedrock, which reads `AWS_BEDROCK_BASE_URL`": ("frameworks", python("frameworks"), "MantleResponses", GPT),
    "OpenAI's SDK for JavaScript and bedrock-mantle": ("js", javascript, "MantleChatCompletions", GPT),
    "Anthropic's client for bedrock-mantle": ("anthropic", python("py"), "Messages", OPUS),
    "Claude Code's mantle mode": ("claudecode", claude_code(OPUS), "Messages", OPUS),
    "Codex": ("codex", codex, "MantleResponses", GPT),
}
# These need the other host.
ON_MANTLE = {name for name in RUN if "mantle" in name or name.startswith("OpenAI's client") or name == "Codex"}
TALKS = {"Claude Code", "Claude Code's mantle mode", "Codex"}
CAN_RUN = [name for name, (client, *_) in RUN.items() if client not in NOT_RUN]


def test_each_block_is_run_or_named_as_not_run():
    assert PAGE.count("\n```\n") == len(BLOCKS), "a block of docs/apps.md has no sentence of its own before it"
    assert set(BLOCKS) == set(RUN)
    assert all(how is not None for client, how, *_ in RUN.values() if client not in NOT_RUN)


@pytest.fixture
def endpoint_variables(daemons, tmp_path):
    """The variables that the page asks for, as the daemon's own command prints them."""
    daemon = daemons("bearer")
    config = daemon.config.read_text().replace('addresses = ["127.0.0.1:0"]', f'addresses = ["{daemon.address}"]')
    command = [BINARIES / "bedrock-sidecar", "env", "--config", written(tmp_path, "config.toml", config)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    variables = dict(re.findall(r"^export (AWS_ENDPOINT_URL_\w+)=(\S+)$", printed, re.MULTILINE))
    assert variables == {
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": daemon.endpoint,
        "AWS_ENDPOINT_URL_BEDROCK": daemon.endpoint,
        "AWS_ENDPOINT_URL_BEDROCK_AGENT_RUNTIME": daemon.endpoint,
    }
    return variables


@pytest.fixture
def app(daemons, endpoint_variables, tmp_path):
    """`app(name, **variables)` runs that block: whether it succeeded, its output, and the records that it left."""

    def run(name, **variables):
        daemon = daemons("mantle" if name in ON_MANTLE else "bearer")
        _, how, *_ = RUN[name]
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        environment = clean_environment(**GOV_KEYS, **endpoint_variables, **variables)
        start = len(daemon.lines)
        command = how(folder, BLOCKS[name].replace(ADDRESS, daemon.endpoint))
        ran = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
        eventually("an idle daemon", daemon.idle)
        return ran.returncode == 0, ran.stdout + ran.stderr, daemon.records(start)

    return run


def answered(name, outcome):
    """The app has shown the model's answer, and its request stands in the record."""
    succeeded, output, records = outcome
    assert succeeded, output
    assert "echo: Hello" in re.sub(r"\n", "", output) or name in TALKS and "echo:" in output, output
    *_, operation, model = RUN[name]
    fitting = [r for r in records if (r["operation"], r.get("modelId")) == (operation, model)]
    assert fitting, records
    for record in fitting:
        assert (record["outcome"], record["caller"], record["statusCode"]) == ("completed", "clients", 200), record
        assert record["inputTokens"] > 0 and record["outputTokens"] > 0, record
        assert record.get("endpoint") == ("bedrock-mantle" if name in ON_MANTLE else None), record
        assert "stored" not in record, record
    return records


@pytest.mark.parametrize("name", CAN_RUN)
def test_the_program_of_the_page_is_answered(app, name):
    records = answered(name, app(name))
    if name not in TALKS:
        assert len(records) == 1, records


class Proxy(socketserver.ThreadingTCPServer):
    """Refuses everything, and remembers what it was asked for."""

    daemon_threads = True

    class RequestHandlerClass(socketserver.StreamRequestHandler):
        def handle(self):
            self.server.asked.append(self.rfile.readline().decode(errors="replace").strip())
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.RequestHandlerClass)
        self.asked = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def proxy():
    with Proxy() as running:
        url = "http://{}:{}".format(*running.server_address)
        running.variables = {"HTTP_PROXY": url, "http_proxy": url}
        yield running
        running.shutdown()


def can(*names):
    return pytest.mark.parametrize("name", [name for name in names if name in CAN_RUN])


@can("Python, boto3", "OpenAI's SDK", "Anthropic's SDK", "Java, SDK v2")
def test_a_proxy_of_the_environment_gets_the_requests_unless_no_proxy_names_the_daemon(app, proxy, name):
    succeeded, output, records = app(name, **proxy.variables)
    assert not succeeded, output
    assert proxy.asked and records == [], (proxy.asked, output)

    proxy.asked.clear()
    answered(name, app(name, **proxy.variables, NO_PROXY="127.0.0.1,localhost", no_proxy="127.0.0.1,localhost"))
    assert proxy.asked == []


@can("Claude Code")
def test_the_block_itself_keeps_a_proxy_out(app, proxy, name):
    answered(name, app(name, **proxy.variables))
    assert proxy.asked == []


@can("Python, boto3", "AWS CLI", "Vercel AI SDK", "Claude Code")
def test_these_ignore_the_fips_setting_where_an_endpoint_is_given(app, name):
    answered(name, app(name, AWS_USE_FIPS_ENDPOINT="true"))


@can("JavaScript, SDK v3", "Java, SDK v2", "Go, SDK v2", "Rust")
def test_these_refuse_the_fips_setting_together_with_an_endpoint(app, name):
    succeeded, output, records = app(name, AWS_USE_FIPS_ENDPOINT="true")
    assert not succeeded and "fips" in output.lower(), output
    assert records == []


@can("JavaScript, SDK v3")
def test_javascript_refuses_the_dual_stack_setting_too(app, name):
    succeeded, output, records = app(name, AWS_USE_DUALSTACK_ENDPOINT="true")
    assert not succeeded and "dualstack" in output.lower(), output
    assert records == []


TOKEN = "bedrock-api-key-of-the-app"


@can("Python, boto3", "Go, SDK v2")
def test_these_do_not_send_a_bearer_token_over_http(app, name):
    succeeded, output, records = app(name, AWS_BEARER_TOKEN_BEDROCK=TOKEN)
    assert not succeeded, output
    assert records == []


@can("AWS CLI", "JavaScript, SDK v3", "Java, SDK v2", "Rust", "Vercel AI SDK")
def test_these_send_it_and_it_goes_no_further_than_the_daemon(app, simulator, name):
    answered(name, app(name, AWS_BEARER_TOKEN_BEDROCK=TOKEN))
    assert [r for r in simulator.from_daemon() if TOKEN in str(r["headers"])] == []


@can("OpenAI's client for Bedrock, which reads `AWS_BEDROCK_BASE_URL`", "Anthropic's client for bedrock-mantle")
def test_these_find_the_mantle_host_by_what_the_command_prints(daemons, tmp_path, name):
    daemon = daemons("mantle")
    config = daemon.config.read_text().replace('addresses = ["127.0.0.1:0"]', f'addresses = ["{daemon.address}"]')
    command = [BINARIES / "bedrock-sidecar", "env", "--config", written(tmp_path, "config.toml", config)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    variables = dict(re.findall(r"^export (\w+)=(\S+)$", printed, re.MULTILINE))
    assert variables["AWS_BEDROCK_BASE_URL"] == f"{daemon.endpoint}/v1"
    assert variables["ANTHROPIC_BEDROCK_MANTLE_BASE_URL"] == f"{daemon.endpoint}/anthropic"
    program = re.sub(r'base_url="[^"]*", ', "", BLOCKS[name])
    assert program != BLOCKS[name]
    how = RUN[name][1]
    start = len(daemon.lines)
    environment = clean_environment(**GOV_KEYS, **variables)
    ran = subprocess.run(how(tmp_path, program), env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0 and "echo: Hello" in ran.stdout, ran.stdout + ran.stderr
    eventually("an idle daemon", daemon.idle)
    answered(name, (True, ran.stdout, daemon.records(start)))
