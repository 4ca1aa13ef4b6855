"""Models by the names that GovCloud applications have for them."""

import pytest

from conftest import ALL, CANARY, STREAMING

CLAUDE = "anthropic.claude-3-haiku-20240307-v1:0"
PROFILE_ONLY = "anthropic.claude-opus-4-1-20250805-v1:0"
LISTED_WRONGLY = ["meta.llama3-3-70b-instruct-v1:0", "meta.llama3-2-11b-instruct-v1:0"]
MODES = pytest.mark.parametrize("mode", ["bearer", "session"])


def models_sent(simulator):
    return {r["model"] for r in simulator.from_daemon() if r["status"] == 200 and r["model"]}


@MODES
@pytest.mark.parametrize("client", ALL)
def test_a_profile_only_model_answers_by_its_bare_id(both, client, mode, simulator):
    direct, via = both(client, mode, "converse", model=PROFILE_ONLY)
    assert not direct["ok"]
    assert "on-demand throughput" in direct["error"]["message"]
    assert via["ok"], via
    assert via["result"]["text"] == f"echo: {CANARY} hello there"
    assert models_sent(simulator) == {f"us.{PROFILE_ONLY}"}


@pytest.mark.parametrize("client", STREAMING)
def test_a_profile_only_model_streams_by_its_bare_id(both, client, simulator):
    direct, via = both(client, "bearer", "converse_stream", model=PROFILE_ONLY)
    assert not direct["ok"]
    assert via["ok"], via
    assert via["result"]["text"] == f"echo: {CANARY} hello there"
    assert models_sent(simulator) == {f"us.{PROFILE_ONLY}"}


@MODES
@pytest.mark.parametrize("model", LISTED_WRONGLY)
def test_a_model_whose_need_for_a_profile_shows_only_when_refused(both, model, mode, simulator):
    """The catalogue says ON_DEMAND; the refusal, with either apostrophe, says otherwise."""
    direct, via = both("boto3", mode, "converse", model=model)
    assert not direct["ok"]
    assert via["ok"], via
    assert via["result"]["text"] == f"echo: {CANARY} hello there"
    assert f"us.{model}" in models_sent(simulator)


@MODES
def test_a_model_without_a_system_profile_gets_one_made(both, mode, simulator):
    direct, via = both("boto3", mode, "converse", model="mistral.pixtral-large-2502-v1:0")
    assert not direct["ok"]
    assert via["ok"], via
    (used,) = models_sent(simulator) - {"mistral.pixtral-large-2502-v1:0"}
    assert ":application-inference-profile/" in used


@MODES
@pytest.mark.parametrize(
    "asked, sent",
    [
        (f"us-gov.{CLAUDE}", f"us.{CLAUDE}"),
        (f"us-gov.{PROFILE_ONLY}", f"us.{PROFILE_ONLY}"),
        (f"arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/{CLAUDE}", CLAUDE),
        (f"arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/{PROFILE_ONLY}", f"us.{PROFILE_ONLY}"),
    ],
)
@pytest.mark.parametrize("client", [name for name in ALL if name != "java-url"])
def test_govcloud_identifiers_are_translated(clients, client, asked, sent, mode, simulator):
    outcome = clients(client, mode).run("converse", model=asked, text=CANARY)
    assert outcome["ok"], outcome
    assert outcome["result"]["text"] == f"echo: {CANARY}"
    (used,) = models_sent(simulator)
    assert used.rsplit("/", 1)[-1] == sent
    assert "us-gov" not in used


def test_what_belongs_to_a_govcloud_account_is_refused(clients, simulator):
    arn = "arn:aws-us-gov:bedrock:us-gov-west-1:123456789012:application-inference-profile/abcdefgh1234"
    outcome = clients("boto3", "bearer").run("converse", model=arn, text=CANARY)
    assert not outcome["ok"]
    assert 400 <= outcome["error"]["status"] < 500
    assert "bedrock-sidecar: " in outcome["error"]["message"]
    assert simulator.from_daemon("Converse") == []


def test_a_geography_outside_the_us_is_not_used_unasked(clients, simulator):
    """Claude Haiku 4.5 is reached only by `global.` here, which may leave the United States."""
    outcome = clients("boto3", "bearer").run("converse", model="anthropic.claude-haiku-4-5-20251001-v1:0", text=CANARY)
    assert all(not (model or "").startswith("global.") for model in models_sent(simulator))
    if outcome["ok"]:
        assert any(":application-inference-profile/" in model for model in models_sent(simulator))
