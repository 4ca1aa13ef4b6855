"""Callers that the daemon knows: their entries in the configuration, and the requests by which the last of them is known."""

import datetime
import hashlib
import hmac
import os
from pathlib import Path

#: How an entry of [[callers]] is matched.
MATCHES = ["user", "group", "token", "key"]
#: The secret of every local key: what has to be looked for is the key's identifier.
SECRET = "local/secret/of/forty/characters/0123456"
PATH = "/model/anthropic.claude-3-haiku-20240307-v1%3A0/invoke"
BODY = b'{"anthropic_version":"bedrock-2023-05-31","max_tokens":512,"messages":[{"role":"user","content":"hello"}]}'


def entries(folder: Path, match: str, count: int) -> str:
    """So many [[callers]], of whom the last one sends the requests."""
    secret(folder / "key", SECRET)
    # A request that fits none of them fails.
    text = "[policy]\nrequire_known_caller = true\n"
    for number in range(1, count + 1):
        is_last = number == count
        match match:
            case "user":
                criterion = f'users = ["{os.getuid() if is_last else 1_000_000 + number}"]'
            case "group":
                criterion = f'groups = ["{os.getgid() if is_last else 1_000_000 + number}"]'
            case "token":
                secret(folder / f"token-{number}", token(0 if is_last else number))
                criterion = f'bearer_token_file = "{folder}/token-{number}"'
            case _:
                criterion = f'access_key_id = "{access_key(0 if is_last else number)}"'
                criterion += f'\nsecret_access_key_file = "{folder}/key"'
        text += f'[[callers]]\nname = "caller-{number}"\n{criterion}\n'
    return text


def secret(file: Path, text: str) -> None:
    file.touch(0o600)
    file.write_text(text)


def token(number: int) -> str:
    return f"a-local-token-of-callers-{number:06}"


def access_key(number: int) -> str:
    return f"LOCALKEY{number:06}"


def request(match: str, address: str) -> bytes | None:
    """The bytes of an InvokeModel by the last entry; none if a request of anybody's does."""
    match match:
        case "token":
            return posted(address, {"authorization": f"Bearer {token(0)}"})
        case "key":
            return posted(address, signature(address))
        case _:
            return None


def posted(address: str, headers: dict[str, str]) -> bytes:
    lines = [f"POST {PATH} HTTP/1.1", f"host: {address}", "content-type: application/json", f"content-length: {len(BODY)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + BODY


def signature(address: str) -> dict[str, str]:
    """Signature Version 4 over host and date, which holds for five minutes."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    words = [now[:8], "us-gov-west-1", "bedrock", "aws4_request"]
    signed = "host;x-amz-date"
    path = PATH.replace("%", "%25")
    canonical = "\n".join(["POST", path, "", f"host:{address}", f"x-amz-date:{now}", "", signed, digest(BODY)])
    text = "\n".join(["AWS4-HMAC-SHA256", now, "/".join(words), digest(canonical.encode())])
    key = f"AWS4{SECRET}".encode()
    for word in [*words, text]:
        key = hmac.digest(key, word.encode(), "sha256")
    credential = f"Credential={access_key(0)}/{'/'.join(words)}"
    authorization = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={signed}, Signature={key.hex()}"
    return {"x-amz-date": now, "authorization": authorization}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
