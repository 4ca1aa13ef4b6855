"""The document for Systems Manager, run as its agent runs it: with the values in the text. S3 is a folder here."""

import hashlib
import re
import textwrap
import unittest

from installed import CONFIG, Host
from packages import DEB, ROOT

DOCUMENT = ROOT / "packaging/aws/ssm/install.yaml"
# In the place of the AWS CLI: the packages, by `aws s3 cp --no-progress URL FILE`.
AWS = '#!/bin/sh -eu\n[ "$1 $2 $3" = "s3 cp --no-progress" ]\ncp "/packages/${4#s3://packages/}" "$5"\n'


class Document(unittest.TestCase):
    def setUp(self) -> None:
        self.host = self.enterContext(Host())
        self.host.put("/usr/local/bin/aws", AWS, 0o755)

    def run_document(self, which: str, secret: str = "", sha256: str = "") -> tuple[int, str]:
        text = DOCUMENT.read_text()
        values = {
            "PackageUrl": f"s3://packages/{which}/{DEB[which].name}",
            "Sha256": sha256 or hashlib.sha256(DEB[which].read_bytes()).hexdigest(),
            "SecretId": secret,
        }
        for name, value in values.items():
            pattern = re.search(rf'  {name}:\n(?:    .*\n)*?    allowedPattern: "(.*)"\n', text)[1]
            self.assertRegex(value, pattern)
        script = textwrap.dedent(text.split("        - |\n")[1])
        script = re.sub(r"\{\{ (\w+) \}\}", lambda found: values[found[1]], script)
        self.host.put("/tmp/document.sh", script, 0o755)
        done = self.host.run("env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "/tmp/document.sh")
        return done.returncode, done.stdout

    def test_a_package_with_another_hash_is_not_installed(self) -> None:
        code, said = self.run_document("first", "mine", "0" * 64)
        self.assertEqual(code, 1, said)
        self.assertRegex(said, r"has the SHA-256 [0-9a-f]{64}, not 0{64}: nothing is installed")
        self.assertEqual(self.host.exists("/usr/bin/bedrock-sidecar", CONFIG), [False, False])

    def test_a_host_gets_the_program_the_secrets_name_and_a_verdict(self) -> None:
        code, said = self.run_document("first", "arn:aws-us-gov:secretsmanager:us-gov-west-1:111122223333:secret:a_b+c-AbCdEf")
        host = self.host
        self.assertEqual((host.states(), host.enabled()), (["active"] * 2, ["enabled"] * 2), said)
        self.assertIn('\nsecret_id = "arn:aws-us-gov:secretsmanager:us-gov-west-1:111122223333:secret:a_b+c-AbCdEf"\n', host.shell(f"cat {CONFIG}"))
        # There is no AWS here, and the command says so.
        self.assertNotEqual(code, 0)
        self.assertIn("\nFAIL", said)

    def test_an_upgrade_without_a_name_leaves_the_configuration_alone(self) -> None:
        host = self.host
        host.shell(f"DEBIAN_FRONTEND=noninteractive apt-get install --yes /packages/first/{DEB['first'].name}")
        host.configure()
        host.start()
        before = host.shell(f"cat {CONFIG}")
        code, said = self.run_document("second")
        self.assertEqual(host.shell(f"cat {CONFIG}"), before)
        self.assertTrue(host.runs_installed_program())
        self.assertIn(DEB["second"].name.split("_")[1], host.shell("dpkg-query -W bedrock-sidecar"))
        self.assertEqual(host.ask(), 200)
        # Where the file has no secret, a name cannot be put in.
        code, said = self.run_document("second", "mine")
        self.assertEqual(code, 1)
        self.assertIn("has no secret_id", said)
