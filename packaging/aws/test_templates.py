"""CloudFormation and Terraform say the same, the policies hold what the daemon calls, and the examples for containers have
the shape that ECS and Kubernetes take. `packaging/aws/test.sh` runs it."""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import botocore.session
import hcl2
import kubernetes_validate
import yaml
from botocore.validate import ParamValidator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EXAMPLES = ROOT / "packaging/examples"
PROGRAM = Path(os.environ.get("BEDROCK_SIDECAR_BINARIES", ROOT / "target/debug")) / "bedrock-sidecar"
CALLS = re.compile(r"\bself\s*\.client\s*\.(\w+)\(\)")

# The tags of CloudFormation, as (name, value).
yaml.SafeLoader.add_multi_constructor("!", lambda loader, tag, node: (tag, _plain(loader, node)))


def _plain(loader: yaml.SafeLoader, node: yaml.Node):
    if isinstance(node, yaml.ScalarNode):
        return node.value
    build = loader.construct_sequence if isinstance(node, yaml.SequenceNode) else loader.construct_mapping
    return build(node, deep=True)


def stack(name: str) -> dict:
    return yaml.safe_load((HERE / f"cloudformation/{name}.yaml").read_text())


def module(name: str) -> dict:
    text = (HERE / f"terraform/{name}/main.tf").read_text()
    return hcl2.loads(text)


def walk(value):
    """All dictionaries in it."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from walk(item)


def bare(value) -> str:
    return str(value).strip('"')


def listed(value) -> list[str]:
    return sorted(bare(item) for item in (value if isinstance(value, list) else [value]))


def statements_of_stack(name: str) -> dict[str, list[str]]:
    found = {}
    for item in walk(stack(name)):
        if "Sid" in item:
            found.setdefault(item["Sid"], []).append(listed(item["Action"]))
    return found


def statements_of_module(name: str) -> dict[str, list[str]]:
    found = {}
    for item in walk(module(name)):
        if "sid" in item:
            found.setdefault(bare(item["sid"]), []).append(listed(item["actions"]))
    return found


def holds(conditions: dict, parameters: dict[str, str], value) -> bool:
    """What a condition of CloudFormation comes to with these parameters."""
    kind, of = value
    if kind == "Condition":
        return holds(conditions, parameters, conditions[of])
    if kind == "Equals":
        left, right = (parameters[one[1]] if isinstance(one, tuple) else one for one in of)
        return left == right
    return {"Not": lambda all_of: not all_of[0], "And": all, "Or": any}[kind](
        [holds(conditions, parameters, one) for one in of]
    )


def allowed_by_stack(name: str, policy: str, **chosen: str) -> dict[str, dict]:
    """The statements of a policy, by their Sid, with these parameters and the defaults of the others."""
    template = stack(name)
    parameters = {key: value.get("Default") for key, value in template["Parameters"].items()} | chosen
    conditions, allowed = template["Conditions"], {}
    for one in template["Resources"][policy]["Properties"]["PolicyDocument"]["Statement"]:
        if isinstance(one, tuple):
            _, (condition, there, absent) = one
            one = there if holds(conditions, parameters, conditions[condition]) else absent
        if isinstance(one, dict):
            allowed[one["Sid"]] = one
    return allowed


def allowed_by_module(name: str, policy: str, **chosen: bool) -> dict[str, dict]:
    """The same of a module. Statements that something else than variables of true and false switches are taken as on."""
    text = module(name)
    (variables,) = [{bare(key): value.get("default") for one in text["variable"] for key, value in one.items()}]
    variables |= chosen
    (document,) = [
        value
        for data in text["data"]
        for kind, named in data.items() if bare(kind) == "aws_iam_policy_document"
        for key, value in named.items() if bare(key) == policy
    ]
    allowed = {bare(one["sid"]): one for one in document["statement"]}
    for dynamic in document["dynamic"]:
        (one,) = dynamic.values()
        switch = re.fullmatch(r"\$\{(var\.\w+(?: && var\.\w+)*) \? \[1\] : \[\]\}", str(one["for_each"]))
        if not switch or all(variables[var.removeprefix("var.")] for var in switch[1].split(" && ")):
            (content,) = one["content"]
            allowed[bare(content["sid"])] = content
    return allowed


def mantle_actions(allowed: dict[str, dict]) -> list[str]:
    actions = [action for one in allowed.values() for action in listed(one.get("Action", one.get("actions")))]
    return sorted(action for action in actions if action.startswith("bedrock-mantle:"))


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Templates(unittest.TestCase):
    maxDiff = None

    def test_both_allow_the_same(self) -> None:
        for name in ("govcloud", "commercial", "anchors"):
            with self.subTest(name):
                allowed = statements_of_stack(name)
                self.assertGreater(len(allowed), 1)
                self.assertEqual(allowed, statements_of_module(name))

    def test_both_are_asked_and_answer_the_same(self) -> None:
        for name in ("govcloud", "commercial", "anchors"):
            with self.subTest(name):
                made, applied = stack(name), module(name)
                asked = sorted(bare(key) for variable in applied["variable"] for key in variable)
                self.assertEqual(sorted(snake(key) for key in made["Parameters"]), asked)
                told = sorted(bare(key) for output in applied["output"] for key in output)
                self.assertEqual(sorted(snake(key) for key in made["Outputs"]), told)

    def test_a_host_may_make_each_call_that_the_daemon_makes_on_the_table_of_the_fleet(self) -> None:
        source = "".join(path.read_text() for path in sorted((HERE / "../../src/limits/fleet/dynamo").glob("*.rs")))
        calls = set(CALLS.findall(source))
        self.assertIn("transact_write_items", calls)
        # DynamoDB has no permission for a transaction, but for what it consists of.
        calls.remove("transact_write_items")
        calls |= {f"{kind}_item" for kind in ("put", "update", "delete") if f"{kind.title()}::builder()" in source}
        (allowed,) = statements_of_stack("govcloud")["KeepTheLimitsOfTheFleet"]
        self.assertEqual({snake(action.removeprefix("dynamodb:")) for action in allowed}, calls)
        fleet = stack("govcloud")["Resources"]["Fleet"]
        self.assertEqual(fleet["Condition"], "WithFleet")
        self.assertEqual(fleet["Properties"]["KeySchema"], [{"AttributeName": "id", "KeyType": "HASH"}])
        self.assertNotIn("TimeToLiveSpecification", fleet["Properties"])

    def test_who_may_invoke_models_may_rerank_with_them(self) -> None:
        for statements in (statements_of_stack("commercial"), statements_of_module("commercial")):
            self.assertEqual(statements["Rerank"], [["bedrock:Rerank"]])
            self.assertIn("bedrock:InvokeModel", statements["InvokeModels"][0])

    def test_a_host_in_govcloud_may_do_there_what_the_commercial_key_may(self) -> None:
        (there, here) = statements_of_stack("commercial"), statements_of_stack("govcloud")
        for sid in ("InvokeModels", "FindModels", "DescribeModels", "CreateProfiles"):
            self.assertEqual(here[sid], there[sid])
        host = stack("govcloud")["Resources"]["HostPolicy"]["Properties"]["PolicyDocument"]["Statement"]
        conditions = {one[1][1]["Sid"]: one[1][0] for one in host if isinstance(one, tuple)}
        self.assertEqual([conditions[sid] for sid in ("InvokeModels", "FindModels", "DescribeModels")], ["WithModels"] * 3)
        self.assertEqual(conditions["CreateProfiles"], "WithProfiles")

    def test_bedrock_mantle_is_allowed_if_asked_for_and_nothing_more_of_it_than_the_daemon_needs(self) -> None:
        needed = [f"bedrock-mantle:{action}" for action in ("CountTokens", "CreateInference", "Get*", "List*")]
        with_key = sorted([*needed, "bedrock-mantle:CallWithBearerToken"])
        models = {"InvokeModels": "true"}
        for name, policy, document, chosen, expected in (
            ("commercial", "InvokePolicy", "invoke", {}, []),
            ("commercial", "InvokePolicy", "invoke", {"UseMantle": "true"}, with_key),
            ("govcloud", "HostPolicy", "host", {}, []),
            ("govcloud", "HostPolicy", "host", models, []),
            ("govcloud", "HostPolicy", "host", {"UseMantle": "true"}, []),
            # Hosts sign with their role there.
            ("govcloud", "HostPolicy", "host", models | {"UseMantle": "true"}, needed),
        ):
            with self.subTest(name, chosen=chosen):
                made = allowed_by_stack(name, policy, **chosen)
                applied = allowed_by_module(name, document, **{snake(key): True for key in chosen})
                self.assertEqual(mantle_actions(made), expected)
                self.assertEqual(mantle_actions(applied), expected)
                self.assertEqual("InvokeModels" in made, name == "commercial" or "InvokeModels" in chosen)

    def test_bedrock_mantle_is_allowed_in_the_regions_that_may_serve_requests(self) -> None:
        allowed = allowed_by_stack("commercial", "InvokePolicy", UseMantle="true")
        _, (comma, (_, (pattern, names))) = allowed["UseMantle"]["Resource"]
        _, (delimiter, regions) = names["EachRegion"]
        self.assertEqual(regions, ("Ref", "Regions"))
        joined = pattern.replace("${EachRegion}", delimiter.join(["us-east-1", "us-west-2"]))
        self.assertEqual(joined.split(comma), [
            f"arn:aws:bedrock-mantle:{region}:*:project/*" for region in ("us-east-1", "us-west-2")
        ])
        # IAM knows a resource of all but one.
        self.assertEqual(allowed["UseMantleWithAnApiKey"]["Resource"], "*")
        applied = allowed_by_module("commercial", "invoke", use_mantle=True)
        resources = str(applied["UseMantle"]["resources"])
        self.assertIn("for region in var.regions", resources)
        self.assertIn(":bedrock-mantle:${region}:${local.account}:project/*", resources)
        self.assertEqual(listed(applied["UseMantleWithAnApiKey"]["resources"]), ["*"])

    def test_a_certificate_gives_what_the_user_of_a_key_has(self) -> None:
        resources = stack("commercial")["Resources"]
        policies = [resources[name]["Properties"]["ManagedPolicyArns"] for name in ("SidecarUser", "HostRole")]
        self.assertEqual(policies, [[("Ref", "InvokePolicy")]] * 2)
        trust = resources["HostRole"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        self.assertEqual([statement["Condition"]["ArnEquals"] for statement in trust], [
            {"aws:SourceArn": ("GetAtt", "HostCa.TrustAnchorArn")}
        ])
        for name in ("HostCa", "HostRole", "HostProfile"):
            self.assertEqual(resources[name]["Condition"], "WithCertificates")


class Examples(unittest.TestCase):
    def accepts(self, configuration: str) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(configuration)
            file.flush()
            done = subprocess.run([PROGRAM, "check", "--config", file.name], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_ecs_takes_the_task_and_the_daemon_its_configuration(self) -> None:
        task = json.loads((EXAMPLES / "ecs-task.json").read_text())
        ecs = botocore.session.get_session().get_service_model("ecs")
        report = ParamValidator().validate(task, ecs.operation_model("RegisterTaskDefinition").input_shape)
        self.assertFalse(report.has_errors(), report.generate_report())
        (configuration,) = [
            variable["value"]
            for container in task["containerDefinitions"]
            for variable in container["environment"]
            if variable["name"] == "CONFIG"
        ]
        self.accepts(configuration)

    def test_kubernetes_takes_the_manifest_and_the_daemon_its_configuration(self) -> None:
        documents = list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))
        for document in documents:
            kubernetes_validate.validate(document, "1.29", strict=True)
        _, configuration, deployment = documents
        self.accepts(configuration["data"]["config.toml"])
        pod = deployment["spec"]["template"]["spec"]
        mounts = {v["name"] for c in pod["initContainers"] + pod["containers"] for v in c["volumeMounts"]}
        self.assertEqual(mounts, {volume["name"] for volume in pod["volumes"]})

    def test_the_document_of_systems_manager_asks_for_what_it_uses(self) -> None:
        text = (HERE / "ssm/install.yaml").read_text()
        document = yaml.safe_load(text)
        used = set(re.findall(r"\{\{ *(\w+) *\}\}", text))
        self.assertEqual(used, set(document["parameters"]))
        # They stand in a shell script as they are.
        for parameter in document["parameters"].values():
            pattern = parameter["allowedPattern"]
            self.assertRegex(pattern, r"^\^.*\$$")
            for text in ("'", '"', "$(true)", "`true`", ";", "&", "|", "\n", "\\", " "):
                self.assertIsNone(re.search(pattern, f"s3://bucket/a{text}a.deb"), f"{pattern} takes {text}")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    unittest.main()
