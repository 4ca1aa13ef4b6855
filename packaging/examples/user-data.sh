#!/bin/sh
# EC2 user data: a host that comes up with bedrock-sidecar running. The instance's role reads the package from a bucket
# of yours, and the secret; packaging/aws has its policy. Put in your own names.
set -eu
bucket=my-packages
secret=cross-partition-commercial-creds

cd /tmp
if command -v dnf >/dev/null; then
    aws s3 cp "s3://$bucket/bedrock-sidecar.$(uname -m).rpm" bedrock-sidecar.rpm
    dnf install --assumeyes ./bedrock-sidecar.rpm
else
    aws s3 cp "s3://$bucket/bedrock-sidecar_$(dpkg --print-architecture).deb" bedrock-sidecar.deb
    DEBIAN_FRONTEND=noninteractive apt-get install --yes ./bedrock-sidecar.deb
fi
sed -i "s|^secret_id = \"\"|secret_id = \"$secret\"|" /etc/bedrock-sidecar/config.toml
systemctl enable --now bedrock-sidecar
bedrock-sidecar check --online
