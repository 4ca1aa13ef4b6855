"""Sends requests until it is told to end, in four ways: on a connection of its own each, on kept ones, by the unix socket,
and streams. Prints how many were answered with 200 and whole, and everything else that happened.

    load.py PATH BODY UNIX-SOCKET
"""

import http.client
import json
import signal
import socket
import sys
import threading

path, body, unix_socket = sys.argv[1:]
# Two seconds each, so that every restart meets some, and has to wait for them.
STREAMED = body.replace("hello", "events 20 pace 100")
stop = threading.Event()
answered = {"fresh": 0, "kept": 0, "unix": 0, "stream": 0}
# Of whole answers. All streams are the same.
lengths: dict[str, set[int]] = {way: set() for way in answered}
failures: list[str] = []
lock = threading.Lock()


class Unix(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(unix_socket)


def tcp() -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", 8790, timeout=60)


def unix() -> http.client.HTTPConnection:
    return Unix("localhost", timeout=60)


def send(way: str, connection: http.client.HTTPConnection) -> None:
    target, sent = (f"{path}-stream", STREAMED) if way == "stream" else (path, body)
    try:
        connection.request("POST", target, sent, {"content-type": "application/json"})
        answer = connection.getresponse()
        # It raises IncompleteRead if the answer is cut off.
        length = len(answer.read())
        problem = None if answer.status == 200 else f"{way}: {answer.status}"
    except (OSError, http.client.HTTPException) as error:
        problem = f"{way}: {error!r}"
        connection.close()
    with lock:
        if problem:
            failures.append(problem)
        else:
            answered[way] += 1
            lengths[way].add(length)


def one_each(way: str, connect) -> None:
    while not stop.wait(0.01):
        connection = connect()
        send(way, connection)
        connection.close()


def kept(way: str) -> None:
    # It connects again by itself after an answer with `Connection: close`.
    connection = tcp()
    while not stop.wait(0.01):
        send(way, connection)
    connection.close()


signal.signal(signal.SIGTERM, lambda *_: stop.set())
ways = [(one_each, "fresh", tcp), (one_each, "fresh", tcp), (kept, "kept"), (kept, "kept"), (one_each, "unix", unix)]
ways += [(one_each, "stream", tcp), (kept, "stream"), (kept, "stream")]
threads = [threading.Thread(target=run, args=arguments) for run, *arguments in ways]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"answered": answered, "failures": failures, "lengths": {way: sorted(all) for way, all in lengths.items()}}))
