"""The examples that the packages bring, as far as they work without AWS."""

import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from packages import ROOT

EXAMPLES = ROOT / "packaging/examples"
DAEMON, OTHER = 4242, 4343

# A network of its own, in which something answers at the address of instance metadata.
METADATA = """
ip link set lo up
ip addr add 169.254.169.254/32 dev lo
nft -f "$1"
nft -f "$1"
python3 -m http.server --bind 169.254.169.254 80 >/dev/null 2>&1 &
server=$!
until ss -Hltn | grep -q ':80 '; do sleep 0.05; done
for uid in 0 4242 4343; do
    setpriv --reuid=$uid --regid=$uid --clear-groups \\
        curl -s -o /dev/null --max-time 20 -w "$uid %{http_code}\\n" http://169.254.169.254/ || true
done
kill $server
"""


class Examples(unittest.TestCase):
    def test_the_rule_for_nftables_lets_only_root_and_the_daemon_ask_for_the_role(self) -> None:
        missing = [name for name in ("nft", "ip", "ss", "unshare", "setpriv") if not shutil.which(name)]
        if missing or os.geteuid() != 0:
            print(f"NOT RUN: the rule for nftables: needs root and {' '.join(missing)}", flush=True)
            self.skipTest("nftables")
        with tempfile.TemporaryDirectory() as folder:
            rule = Path(folder) / "rule.nft"
            # There is no such user on this host.
            rule.write_text((EXAMPLES / "nftables.conf").read_text().replace('"bedrock-sidecar"', str(DAEMON)))
            command = ["timeout", "60", "unshare", "--net", "bash", "-ec", METADATA, "bash", rule]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(done.stdout.splitlines(), ["0 200", f"{DAEMON} 200", f"{OTHER} 000"])

    def test_the_user_data_is_a_script(self) -> None:
        subprocess.run(["sh", "-n", EXAMPLES / "user-data.sh"], check=True)
