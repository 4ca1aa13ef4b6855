"""Answers in whatever framing HTTP allows: every SDK reads them whole, and each record is true (conftest checks it)."""

import pytest

from conftest import ALL, CANARY, STREAMING

CLAUDE = "anthropic.claude-3-haiku-20240307-v1:0"
# Each seed is another sequence of framings; one of them is that of the first finding, an END_STREAM in a frame of its own.
FRAMINGS = ["h2-empty-end", "h2-trailers-late", "random:1", "random:2", "random:3"]
# The chance includes header fields of 8,000 bytes. Netty refuses such heads, and the streaming Java SDK then waits for ever,
# whoever sent them.
STREAMS = [(client, framing) for client in STREAMING for framing in FRAMINGS if client != "java" or "random" not in framing]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("client", ALL)
def test_an_answer_in_one_piece(clients, client, framing, simulator):
    simulator.framing(framing)
    for _ in range(8):
        outcome = clients(client, "bearer").run("converse", model=CLAUDE, text=f"{CANARY} hello there")
        assert outcome["ok"], outcome
        assert outcome["result"]["text"] == f"echo: {CANARY} hello there"
    assert all(not request["cancelled_whole"] for request in simulator.from_daemon())


@pytest.mark.parametrize(("client", "framing"), STREAMS)
def test_a_stream(clients, daemons, client, framing, simulator):
    simulator.framing(framing)
    for _ in range(8):
        outcome = clients(client, "bearer").run("converse_stream", model=CLAUDE, text=f"{CANARY} events 20")
        assert outcome["ok"], (outcome, daemons("bearer").records()[-1].get("errorMessage"))
        assert outcome["result"]["text"] == "".join(f"word{n} " for n in range(20))
    assert all(not request["cancelled_whole"] for request in simulator.from_daemon())
