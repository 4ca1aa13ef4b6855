"""HTTP/1.1 on a raw socket: what a proxy must not be talked into."""

import json
import socket

import pytest

from conftest import CANARY
from harness import COMMERCIAL_BEARER, DEADLINE, Daemon

LIMIT = 1_000_000
PATH = "/model/anthropic.claude-3-haiku-20240307-v1%3A0/converse"
BODY = json.dumps({"messages": [{"role": "user", "content": [{"text": CANARY}]}]}).encode()
CREDENTIAL = b"ASIAGOVCLOUDEXAMPLE1/20250101/us-gov-west-1/bedrock/aws4_request"
SIGNATURE = b"0" * 64
AUTHORIZATION = (
    b"Authorization: AWS4-HMAC-SHA256 Credential=%b, SignedHeaders=host;x-amz-date, Signature=%b\r\n"
    % (CREDENTIAL, SIGNATURE)
)


@pytest.fixture(scope="module")
def daemon(simulator, secrets, tmp_path_factory):
    secrets.put("wire", {"bedrock_api_key": COMMERCIAL_BEARER})
    extra = f"[limits]\nmax_body_bytes = {LIMIT}\n"
    running = Daemon(tmp_path_factory.mktemp("wire") / "daemon", simulator, secrets, secret="wire", extra=extra)
    yield running
    running.stop()




class Wire:
    """A connection on which every byte is ours."""

    def __init__(self, daemon):
        host, port = daemon.address.rsplit(":", 1)
        self.host = daemon.address.encode()
        self.socket = socket.create_connection((host, int(port)), timeout=DEADLINE)
        self.reader = self.socket.makefile("rb")

    def send(self, data):
        self.socket.sendall(data)

    def request(self, headers=b"", body=BODY, line=b"POST " + PATH.encode() + b" HTTP/1.1", host=None, length=True):
        head = line + b"\r\nHost: " + (host or self.host) + b"\r\nContent-Type: application/json\r\n" + headers
        if length:
            head += b"Content-Length: %d\r\n" % len(body)
        self.send(head + b"\r\n" + body)

    def answer(self):
        """Status, headers and body of the next answer; None when the connection is closed instead."""
        line = self.reader.readline()
        if not line:
            return None
        status = int(line.split()[1])
        headers = {}
        while (line := self.reader.readline().rstrip(b"\r\n")) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        if status == 100:
            return status, headers, b""
        if "content-length" in headers:
            return status, headers, self.reader.read(int(headers["content-length"]))
        body = b""
        while headers.get("transfer-encoding") == "chunked":
            size = int(self.reader.readline(), 16)
            body += self.reader.read(size)
            self.reader.readline()
            if size == 0:
                break
        return status, headers, body

    def refused(self, status, error_type):
        """The next answer is one of the daemon's own refusals, in AWS's shape."""
        answer = self.answer()
        assert answer is not None, "the connection was closed without an answer"
        got, headers, body = answer
        assert (got, headers.get("x-amzn-errortype")) == (status, error_type), body
        assert json.loads(body)["message"].startswith("bedrock-sidecar: ")
        return headers

    def answered(self):
        status, headers, body = self.answer()
        assert status == 200, body
        assert json.loads(body)["output"]["message"]["content"][0]["text"] == f"echo: {CANARY}"
        return headers

    def closed(self):
        """Nothing more comes: the connection is, or is being, closed."""
        try:
            assert self.reader.read() == b""
        except ConnectionResetError:
            pass


@pytest.fixture
def wire(daemon):
    connection = Wire(daemon)
    yield connection
    connection.socket.close()


@pytest.fixture
def nothing_sent(simulator):
    """What is refused never reaches Bedrock."""
    yield
    assert simulator.from_daemon("Converse") == []


def test_a_sound_request_is_answered(wire):
    wire.request()
    headers = wire.answered()
    assert headers["x-bedrock-sidecar-region"] == "us-east-1"
    assert headers["x-bedrock-sidecar-request-id"]
    assert headers["x-amzn-requestid"]


def test_raw_colons_in_the_path(wire):
    wire.request(line=b"POST /model/anthropic.claude-3-haiku-20240307-v1:0/converse HTTP/1.1")
    wire.answered()


@pytest.mark.parametrize("target", [b"http://evil.example/", b"http://169.254.169.254/latest/meta-data/", b"evil.example:443"])
def test_the_daemon_is_no_forward_proxy(wire, target, nothing_sent):
    wire.request(line=(b"CONNECT " if target.endswith(b":443") else b"POST ") + target + b" HTTP/1.1")
    status, _, body = wire.answer()
    assert 400 <= status < 500
    assert json.loads(body)["message"].startswith("bedrock-sidecar: ")


def test_expect_100_continue(wire):
    wire.send(
        b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
        b"Expect: 100-continue\r\n\r\n" % (PATH.encode(), wire.host, len(BODY))
    )
    assert wire.answer()[0] == 100
    wire.send(BODY)
    wire.answered()


def test_expect_100_continue_on_a_body_that_is_too_large(wire, nothing_sent):
    wire.send(
        b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n"
        % (PATH.encode(), wire.host, LIMIT + 1)
    )
    wire.refused(413, "ValidationException")


def test_a_length_over_the_limit_is_refused_before_the_body(wire, nothing_sent):
    wire.send(b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n" % (PATH.encode(), wire.host, 10**15))
    wire.refused(413, "ValidationException")
    wire.closed()


def test_a_chunked_body_over_the_limit(wire, nothing_sent):
    wire.send(b"POST %b HTTP/1.1\r\nHost: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % (PATH.encode(), wire.host))
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    try:
        for _ in range(LIMIT // 0x10000 + 1):
            wire.send(chunk)
    except (ConnectionResetError, BrokenPipeError):
        pass
    wire.refused(413, "ValidationException")


def test_a_chunked_body(wire):
    wire.send(
        b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        % (PATH.encode(), wire.host)
    )
    for piece in (BODY[:10], BODY[10:]):
        wire.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    wire.send(b"0\r\n\r\n")
    wire.answered()


HEAD_FAULTS = {
    "length and chunks": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "chunks and length": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "two different lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "two equal lengths": b"Content-Length: 5\r\nContent-Length: 5\r\n",
    "a list of lengths": b"Content-Length: 5, 5\r\n",
    "a signed length": b"Content-Length: +5\r\n",
    "a negative length": b"Content-Length: -1\r\n",
    "a length in hex": b"Content-Length: 0x5\r\n",
    "two hosts": b"Host: 127.0.0.1:1\r\nContent-Length: 0\r\n",
    "a folded line": b"X-Folded: one\r\n two\r\nContent-Length: 0\r\n",
    "a space before the colon": b"Content-Length : 0\r\n",
    "a bare CR": b"X-Bare: one\rX-Hidden: two\r\nContent-Length: 0\r\n",
    "a bare LF": b"X-Bare: one\nX-Hidden: two\r\nContent-Length: 0\r\n",
    "a NUL": b"X-Nul: one\x00two\r\nContent-Length: 0\r\n",
    "an unknown transfer coding": b"Transfer-Encoding: gzip, chunked\r\n",
    "an obfuscated transfer coding": b"Transfer-Encoding: \x0bchunked\r\nContent-Length: 5\r\n",
    "chunks that are not last": b"Transfer-Encoding: chunked, identity\r\n",
}


@pytest.mark.parametrize("fault", HEAD_FAULTS)
def test_an_ambiguous_head_is_refused(wire, fault, nothing_sent):
    wire.request(HEAD_FAULTS[fault], body=b"", length=False)
    wire.refused(400, "ValidationException")
    wire.closed()


def test_no_host(wire, nothing_sent):
    wire.send(b"POST %b HTTP/1.1\r\nContent-Length: 0\r\n\r\n" % PATH.encode())
    wire.refused(400, "ValidationException")


def test_something_that_is_not_http(wire, nothing_sent):
    wire.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client\r\n\r\n")
    answer = wire.answer()
    assert answer is None or answer[0] == 400


@pytest.mark.parametrize(
    "header",
    [
        b"Origin: http://evil.example\r\n",
        b"Origin: null\r\n",
        b"X-Forwarded-For: 10.0.0.1\r\n",
        b"X-Forwarded-Host: evil.example\r\n",
        b"Forwarded: for=10.0.0.1\r\n",
        b"Via: 1.1 proxy\r\n",
    ],
    ids=lambda header: header.decode().strip(),
)
def test_browsers_and_proxies_are_refused(wire, header, nothing_sent):
    wire.request(header)
    wire.refused(403, "AccessDeniedException")


@pytest.mark.parametrize("host", [b"evil.example", b"127.0.0.1.evil.example", b"169.254.169.254", b"bedrock-runtime.us-east-1.amazonaws.com"])
def test_a_foreign_host_is_refused(wire, host, nothing_sent):
    wire.request(host=host)
    wire.refused(403, "AccessDeniedException")


def test_localhost_by_name_is_ours(wire):
    port = wire.host.rsplit(b":", 1)[1]
    wire.request(host=b"localhost:" + port)
    wire.answered()


@pytest.mark.parametrize(
    "path",
    ["/model/../invoke", "/model/a%2F..%2Fb/converse", "/model/%2e%2e/converse", "/model/a%00/converse", "/model/a%3Fb/converse"],
)
def test_traversal_is_refused(wire, path, nothing_sent):
    wire.request(line=f"POST {path} HTTP/1.1".encode())
    wire.refused(400, "ValidationException")


def test_an_unknown_operation(wire, nothing_sent):
    wire.request(line=b"POST /model/a/unknown HTTP/1.1")
    wire.refused(404, "UnknownOperationException")


def test_pipelined_requests_are_answered_in_order(wire):
    words = [f"{CANARY} first", f"{CANARY} second", f"{CANARY} third"]
    for word in words:
        wire.request(body=json.dumps({"messages": [{"role": "user", "content": [{"text": word}]}]}).encode())
    for word in words:
        status, _, body = wire.answer()
        assert status == 200
        assert json.loads(body)["output"]["message"]["content"][0]["text"] == f"echo: {word}"


def test_a_connection_is_kept_after_an_error(wire):
    wire.request(line=b"POST /model/nobody.no-such-model-v1%3A0/converse HTTP/1.1")
    assert wire.answer()[0] == 400
    wire.request(line=b"POST /model/a/unknown HTTP/1.1")
    wire.refused(404, "UnknownOperationException")
    wire.request()
    wire.answered()


def test_a_request_hidden_in_a_body_is_not_seen(wire, simulator):
    """The body of a refused request must never be read as the next request."""
    hidden = b"POST /model/hidden/converse HTTP/1.1\r\nHost: " + wire.host + b"\r\nContent-Length: 2\r\n\r\n{}"
    wire.request(b"Origin: http://evil.example\r\n", body=hidden)
    wire.refused(403, "AccessDeniedException")
    wire.request()
    answer = wire.answer()
    assert answer is None or answer[0] == 200
    assert all("hidden" not in request["path"] for request in simulator.from_daemon())


def test_headers_of_one_hop_and_cookies_stay_here(wire, simulator):
    wire.request(
        b"Connection: keep-alive, X-Private\r\nX-Private: yes\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n"
        b"Cookie: session=1\r\nX-Amz-Security-Token: client-token\r\nX-Amz-Date: 20250101T000000Z\r\n"
        b"X-Amz-Content-Sha256: UNSIGNED-PAYLOAD\r\nProxy-Authorization: Basic x\r\n" + AUTHORIZATION
    )
    wire.answered()
    (request,) = simulator.from_daemon("Converse")
    sent = {name.lower(): value for name, value in request["headers"]}
    for name in ["x-private", "keep-alive", "te", "cookie", "x-amz-security-token", "x-amz-date", "proxy-authorization"]:
        assert name not in sent
    assert sent["authorization"].startswith("Bearer ")


def test_presigned_query_parameters_stay_here(wire, simulator):
    query = (
        b"?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=%b&X-Amz-Date=20250101T000000Z&X-Amz-Expires=900"
        b"&X-Amz-SignedHeaders=host&X-Amz-Security-Token=client-token&X-Amz-Signature=%b"
        % (CREDENTIAL.replace(b"/", b"%2F"), SIGNATURE)
    )
    wire.request(line=b"POST " + PATH.encode() + query + b" HTTP/1.1")
    wire.answered()
    (request,) = simulator.from_daemon("Converse")
    assert "?" not in request["path"]
