#!/usr/bin/env python3
"""A stand-in for aws_signing_helper: the same arguments, the same output, and a signature by openssl.

It shares nothing with the daemon, so that the simulator's idea of the signature has a second witness."""

import argparse
import base64
import datetime
import hashlib
import json
import subprocess
import urllib.request


def openssl(*words, data=None):
    return subprocess.run(["openssl", *words], input=data, check=True, stdout=subprocess.PIPE).stdout


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["credential-process"])
    for name in ["certificate", "private-key", "trust-anchor-arn", "profile-arn", "role-arn", "region", "endpoint"]:
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()

    der = openssl("x509", "-in", given.certificate, "-outform", "DER")
    serial = openssl("x509", "-in", given.certificate, "-noout", "-serial").decode().strip().partition("=")[2]
    kind = "ECDSA" if b"id-ecPublicKey" in openssl("x509", "-in", given.certificate, "-noout", "-text") else "RSA"
    algorithm = f"AWS4-X509-{kind}-SHA256"
    body = json.dumps(
        {
            "durationSeconds": 3600,
            "profileArn": given.profile_arn,
            "roleArn": given.role_arn,
            "trustAnchorArn": given.trust_anchor_arn,
        }
    ).encode()
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "content-type": "application/json",
        "host": given.endpoint.partition("://")[2],
        "x-amz-date": date,
        "x-amz-x509": base64.b64encode(der).decode(),
    }
    signed = ";".join(headers)
    lines = ["POST", "/sessions", "", *(f"{name}:{value}" for name, value in headers.items()), "", signed]
    canonical = "\n".join([*lines, hashlib.sha256(body).hexdigest()])
    scope = f"{date[:8]}/{given.region}/rolesanywhere/aws4_request"
    to_sign = f"{algorithm}\n{date}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = openssl("dgst", "-sha256", "-sign", given.private_key, data=to_sign.encode()).hex()
    headers["authorization"] = (
        f"{algorithm} Credential={int(serial, 16)}/{scope}, SignedHeaders={signed}, Signature={signature}"
    )
    request = urllib.request.Request(f"{given.endpoint}/sessions", data=body, headers=headers, method="POST")
    with urllib.request.urlopen(request, timeout=20) as answer:
        keys = json.load(answer)["credentialSet"][0]["credentials"]
    print(
        json.dumps(
            {
                "Version": 1,
                "AccessKeyId": keys["accessKeyId"],
                "SecretAccessKey": keys["secretAccessKey"],
                "SessionToken": keys["sessionToken"],
                "Expiration": keys["expiration"],
            }
        )
    )


main()
