"""The packages under test: two of the same program, the second one newer, and the first one packed a second time."""

import os
import shutil
import subprocess
from pathlib import Path

from machine import NotRun

ROOT = Path(__file__).parents[2]
BINARIES = Path(os.environ.get("BEDROCK_SIDECAR_BINARIES", ROOT / "target/debug"))
FOLDER = ROOT / "target/package/tests"

DEB = {}
RPM = {}


def build() -> None:
    """Packs them. Raises NotRun where the packing tools cannot be had."""
    tools = subprocess.run([ROOT / "packaging/tools"], capture_output=True, text=True)
    if tools.returncode != 0:
        raise NotRun(tools.stderr.strip().splitlines()[-1])
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name, revision in (("first", "1"), ("second", "2"), ("again", "1")):
        folder = FOLDER / name
        command = [ROOT / "packaging/build", "--fast", "--revision", revision, "--output", folder]
        command += ["--binary", BINARIES / "bedrock-sidecar", "--features", ""]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if "build on an older system" in done.stderr:
            raise NotRun(done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stderr
        (DEB[name],) = folder.glob("*.deb")
        (RPM[name],) = folder.glob("*.rpm")
