"""Streams as they pass: nothing held back, many at once, and clients that leave."""

import pytest

from conftest import CANARY, STREAMING, available
from harness import eventually

CLAUDE = "anthropic.claude-3-haiku-20240307-v1:0"
MODES = pytest.mark.parametrize("mode", ["bearer", "session"])


@MODES
@pytest.mark.parametrize("case", ["converse_stream", "invoke_stream"])
@pytest.mark.parametrize("client", STREAMING)
def test_an_event_arrives_before_the_next_one_is_sent(clients, client, case, mode, simulator):
    if client == "anthropic" and case == "invoke_stream":
        pytest.skip("has one kind of stream")
    program = clients(client, mode)
    ask = {"model": CLAUDE, "text": f"{CANARY} events 5"}
    whole = clients(client, "direct").run(case, **ask)["result"]["events"]

    simulator.gate(closed=True)
    program.start(case, **ask)
    eventually("a stream at the gate", lambda: simulator.gate()["waiting"] == 1)
    for number in range(whole):
        simulator.gate(release=1)
        kind, what = program.next()
        assert kind == "event", f"after {number} events: {what}"
    kind, outcome = program.next()
    assert (kind, outcome["ok"]) == ("done", True), outcome
    assert outcome["result"]["events"] == whole


@MODES
@pytest.mark.parametrize("client", available("js", "java"))
def test_many_streams_at_once(both, client, mode):
    """In JavaScript on one HTTP/2 connection, which the client destroys right after the last event."""
    direct, via = both(client, mode, "parallel_streams", model=CLAUDE, count=60)
    assert direct["ok"], direct
    texts = [stream["text"] for stream in direct["result"]["streams"]]
    assert texts == [f"echo: {CANARY} hello there {n}" for n in range(60)]
    assert via == direct


@MODES
@pytest.mark.parametrize("client", available("js"))
def test_a_client_destroyed_while_its_streams_are_open(clients, client, mode, simulator):
    """The client sends GOAWAY with ten streams open, each of which then goes on to its end."""
    outcomes = []
    for way in ["direct", mode]:
        simulator.gate(closed=True)
        program = clients(client, way)
        program.start("destroyed_while_open", model=CLAUDE, text=f"{CANARY} events 500", count=10)
        # The SDK gives a stream to the application once its first event is there.
        eventually("the client's end", lambda: simulator.gate(release=1) and not program.answers.empty())
        assert program.next() == ("event", "destroyed")
        simulator.gate(closed=False)
        kind, outcome = program.next()
        assert kind == "done"
        outcomes.append(outcome)
    direct, via = outcomes
    assert direct["ok"] and len(direct["result"]["streams"]) == 10, direct
    assert all(stream["stop"] for stream in direct["result"]["streams"])
    assert via == direct


@MODES
@pytest.mark.parametrize("client", available("js"))
def test_a_client_that_leaves_ends_the_call_upstream(clients, client, mode, simulator):
    simulator.gate(closed=True)
    program = clients(client, mode)
    program.start("leave_stream", model=CLAUDE, text=f"{CANARY} events 50")
    eventually("a stream at the gate", lambda: simulator.gate()["waiting"] == 1)
    simulator.gate(release=1)
    assert program.next()[0] == "event"
    assert program.next() == ("done", {"ok": True, "result": {"left": True}})
    eventually(
        "the upstream stream's end",
        lambda: simulator.from_daemon("ConverseStream")[-1]["ended"] == "client_went_away",
    )


@MODES
def test_a_long_pause_before_the_first_event_is_waited_for(both, mode):
    direct, via = both("boto3", mode, "converse_stream", model=CLAUDE, text=f"{CANARY} events 3 think 3000 pace 500")
    assert direct["result"]["events"] > 3
    assert via == direct


@MODES
def test_a_large_answer_passes_whole(both, mode):
    direct, via = both("boto3", mode, "converse_stream", model=CLAUDE, text=f"{CANARY} repeat 200000")
    assert direct["ok"] and len(direct["result"]["text"]) == 200_000
    assert via == direct
