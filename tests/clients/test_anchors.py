"""Anchors of the hash chain in a bucket with Object Lock. S3 is moto's, which checks signatures and permissions here."""

import json
import re
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from harness import BINARIES, COMMERCIAL_BEARER, DEADLINE, Daemon, clean_environment, eventually, http, stop

BUCKET = "audit-anchors"
ON_DEMAND = "amazon.nova-lite-v1:0"


class Bucket:
    """A server that from the third call on answers only to who signs, and does only what the signer's policy allows."""

    def __init__(self, folder):
        self.log = open(folder / "moto.log", "w+")
        # The user and its key come before everybody is asked who he is, and so does what it may do.
        environment = clean_environment(INITIAL_NO_AUTH_ACTION_COUNT="3", PYTHONUNBUFFERED="1")
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, env=environment)
        try:
            self.endpoint = eventually("moto", self._endpoint)
            iam = self.client("iam", "AKIATESTFIXTURE", "fixture")
            iam.create_user(UserName="host")
            key = iam.create_access_key(UserName="host")["AccessKey"]
            self.keys = key["AccessKeyId"], key["SecretAccessKey"]
            # What packaging/aws gives a host, and what the rest of this test needs.
            allowed = ["s3:PutObject", "s3:PutObjectRetention", "s3:CreateBucket", "s3:List*", "s3:Get*", "s3:PutBucket*"]
            statement = {"Effect": "Allow", "Action": allowed, "Resource": "*"}
            policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            iam.put_user_policy(UserName="host", PolicyName="host", PolicyDocument=policy)
        except BaseException:
            self.stop()
            raise
        self.s3 = self.client("s3", *self.keys)

    def _endpoint(self):
        assert self.process.poll() is None, "moto has ended"
        found = re.search(r"http://127\.0\.0\.1:[1-9]\d*", open(self.log.name).read())
        return found and found.group()

    def client(self, service, key, secret):
        return boto3.client(
            service,
            region_name="us-gov-west-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
        )

    def create(self):
        place = {"LocationConstraint": "us-gov-west-1"}
        self.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place, ObjectLockEnabledForBucket=True)

    def keys_of_anchors(self):
        return [entry["Key"] for entry in self.s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    def sync(self, folder):
        """As `aws s3 sync s3://BUCKET/bedrock FOLDER` does it."""
        for key in self.keys_of_anchors():
            path = folder / key.removeprefix("bedrock/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def stop(self):
        stop(self.process)
        self.log.close()


@pytest.fixture
def bucket(tmp_path):
    running = Bucket(tmp_path)
    yield running
    running.stop()


def settings(bucket):
    return f"""
[audit.anchor]
to = "s3"
bucket = "{BUCKET}"
prefix = "bedrock"
endpoint = "{bucket.endpoint}"
object_lock_mode = "COMPLIANCE"
object_lock_days = 30
"""


def converse(daemon):
    document = {"messages": [{"role": "user", "content": [{"text": "hello"}]}]}
    headers = {"content-type": "application/json"}
    status, _, body = http("POST", f"{daemon.endpoint}/model/{ON_DEMAND}/converse", document, headers)
    assert status == 200, body


def metric(daemon, name):
    page = http("GET", f"{daemon.admin}/metrics")[2].decode()
    return float(re.search(rf"^bedrock_sidecar_{name} (\S+)$", page, re.M).group(1))


def said(daemon, text):
    return [line for line in daemon.lines if text in line]


def ended(daemon):
    daemon.process.terminate()
    assert daemon.process.wait(DEADLINE) == 0, "".join(daemon.lines)
    eventually("the end of the log", lambda: said(daemon, '"stopped"'))


def verify(config, folder):
    command = [BINARIES / "bedrock-sidecar", "audit", "verify", "--anchors", folder, "--config", config]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=DEADLINE)
    return done.returncode, done.stdout + done.stderr


def test_a_cut_ledger_is_found_by_the_anchors_in_a_locked_bucket(tmp_path, simulator, secrets, bucket):
    secrets.put("anchored", {"bedrock_api_key": COMMERCIAL_BEARER})
    daemon = Daemon(tmp_path / "one", simulator, secrets, secret="anchored", extra=settings(bucket), keys=bucket.keys)
    try:
        for _ in range(5):
            converse(daemon)
        # There is no bucket yet: at the stop, an anchor fails.
        ended(daemon)
        assert len(said(daemon, "cannot be anchored")) == 1, daemon.lines
        assert said(daemon, "NoSuchBucket")
        state = daemon.state

        # The same ledger again: the anchor of the start fails too, requests are served, and later it works.
        daemon = Daemon(
            tmp_path / "two", simulator, secrets, secret="anchored", extra=settings(bucket), keys=bucket.keys, state=state
        )
        eventually("a failure", lambda: metric(daemon, "audit_anchor_failures_total") == 1)
        assert metric(daemon, "audit_anchor_last_timestamp_seconds") == 0
        converse(daemon)
        bucket.create()
        ended(daemon)
        assert len(said(daemon, "cannot be anchored")) == 1, daemon.lines
        assert len(said(daemon, "anchored again")) == 1, "".join(daemon.lines[-6:])

        daemon = Daemon(
            tmp_path / "three", simulator, secrets, secret="anchored", extra=settings(bucket), keys=bucket.keys, state=state
        )
        eventually("an anchor", lambda: metric(daemon, "audit_anchor_last_timestamp_seconds") > 0)
        assert metric(daemon, "audit_anchor_failures_total") == 0
        for _ in range(3):
            converse(daemon)
        ended(daemon)
        assert not said(daemon, "anchored"), daemon.lines
    finally:
        daemon.stop()

    keys = bucket.keys_of_anchors()
    # Of the second stop, the third start and the third stop; the first two say the same, and may be of one second.
    assert len(keys) in (2, 3) and len({key.rpartition("-")[2] for key in keys}) == 2, keys
    for key in keys:
        assert re.fullmatch(r"bedrock/[^/]+/[^/]+/\d{4}-\d\d-\d\dT\d{6}Z-\d+\.json", key), key
        head = bucket.s3.head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")
        assert head["ObjectLockMode"] == "COMPLIANCE"
        until = head["ObjectLockRetainUntilDate"] - datetime.now(UTC)
        assert timedelta(days=29) < until <= timedelta(days=30)
    with pytest.raises(ClientError):
        bucket.s3.delete_object(Bucket=BUCKET, Key=keys[0], VersionId=head["VersionId"])

    # This S3 would have told a wrong signature.
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        bucket.client("s3", bucket.keys[0], "another secret").put_object(Bucket=BUCKET, Key="x", Body=b"x")

    copy = tmp_path / "anchors"
    bucket.sync(copy)
    config = tmp_path / "three" / "config.toml"
    status, report = verify(config, copy)
    assert status == 0 and "proven by anchors: records 1 to " in report, report

    # The tail is cut, and whatever knows of it.
    with sqlite3.connect(state / "ledger.db") as db:
        last = db.execute("SELECT max(seq) FROM records").fetchone()[0]
        db.execute("DELETE FROM records WHERE seq > ?", [last - 2])
        db.execute("UPDATE chains SET head_seq = ?1, head_hash = (SELECT hash FROM records WHERE seq = ?1)", [last - 2])
    for file in (state / "journal").iterdir():
        file.unlink()
    command = [BINARIES / "bedrock-sidecar", "audit", "verify", "--config", config]
    assert subprocess.run(command, env=clean_environment(), capture_output=True, timeout=DEADLINE).returncode == 0
    status, report = verify(config, copy)
    assert status == 1 and f"anchored at record {last}, and ends at record {last - 2}" in report, report
