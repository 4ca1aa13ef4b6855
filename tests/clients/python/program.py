"""What the Python client programs share: one JSON request per line in, one JSON answer per line out."""

import base64
import datetime
import json
import sys
import threading

_output = threading.Lock()


def say(document):
    with _output:
        sys.stdout.write(json.dumps(document, default=_plain, sort_keys=True) + "\n")
        sys.stdout.flush()


def _plain(value):
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return str(value)


def serve(cases, describe):
    """Runs the case that each line names; `describe` turns an exception into what an application can see of it."""
    for line in sys.stdin:
        request = json.loads(line)
        seen = []

        def emit(event):
            seen.append(event)
            say({"id": request["id"], "event": event})

        try:
            done = {"ok": True, "result": cases[request["case"]](request, emit)}
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises is the result
            done = {"ok": False, "error": describe(error), "events": seen}
        say({"id": request["id"], "done": done})


def image(size):
    """Bytes that begin as a PNG does; the same ones in every client."""
    head = b"\x89PNG\r\n\x1a\n"
    pattern = bytes(i * 7 % 251 for i in range(251))
    return head + (pattern * (size // 251 + 1))[: size - len(head)]
