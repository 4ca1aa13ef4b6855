"""What is in the packages, without installing them."""

import re
import shutil
import subprocess
import unittest

from packages import DEB, ROOT, RPM

# What an admin, systemd and the shells look for, wherever the two kinds of package put it.
FILES = """
/etc/bedrock-sidecar/config.toml
/usr/bin/bedrock-sidecar
/usr/lib/systemd/system/bedrock-sidecar-listen.socket
/usr/lib/systemd/system/bedrock-sidecar.service
/usr/lib/sysusers.d/bedrock-sidecar.conf
/usr/lib/tmpfiles.d/bedrock-sidecar.conf
/usr/share/bash-completion/completions/bedrock-sidecar
/usr/share/doc/bedrock-sidecar/THIRD-PARTY-NOTICES.gz
/usr/share/doc/bedrock-sidecar/bedrock-sidecar.cdx.json.gz
/usr/share/doc/bedrock-sidecar/changelog.gz
/usr/share/doc/bedrock-sidecar/examples/Containerfile
/usr/share/doc/bedrock-sidecar/examples/config.toml
/usr/share/doc/bedrock-sidecar/examples/ecs-task.json
/usr/share/doc/bedrock-sidecar/examples/kubernetes.yaml
/usr/share/doc/bedrock-sidecar/examples/monitoring/cloudwatch/amazon-cloudwatch-agent.json
/usr/share/doc/bedrock-sidecar/examples/monitoring/cloudwatch/log-file.json
/usr/share/doc/bedrock-sidecar/examples/monitoring/grafana/bedrock-sidecar.json
/usr/share/doc/bedrock-sidecar/examples/monitoring/prometheus/bedrock-sidecar.rules.yaml
/usr/share/doc/bedrock-sidecar/examples/monitoring/prometheus/scrape.yaml
/usr/share/doc/bedrock-sidecar/examples/nftables.conf
/usr/share/doc/bedrock-sidecar/examples/ssm/install.yaml
/usr/share/doc/bedrock-sidecar/examples/systemd/credential.conf
/usr/share/doc/bedrock-sidecar/examples/user-data.sh
/usr/share/fish/vendor_completions.d/bedrock-sidecar.fish
/usr/share/man/man5/bedrock-sidecar.toml.5.gz
/usr/share/man/man8/bedrock-sidecar-audit.8.gz
/usr/share/man/man8/bedrock-sidecar.8.gz
""".split()
DEB_FILES = """
/usr/share/doc/bedrock-sidecar/changelog.Debian.gz
/usr/share/doc/bedrock-sidecar/copyright
/usr/share/zsh/vendor-completions/_bedrock-sidecar
""".split()
RPM_FILES = """
/usr/share/licenses/bedrock-sidecar/LICENSE
/usr/share/zsh/site-functions/_bedrock-sidecar
""".split()


def run(*command: object) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done.stdout


class Contents(unittest.TestCase):
    def need(self, program: str) -> None:
        if not shutil.which(program):
            print(f"NOT RUN: {program}: it is not installed", flush=True)
            self.skipTest(program)

    def test_lintian_finds_nothing(self) -> None:
        self.need("lintian")
        levels = "error,warning,info,pedantic,experimental"
        run("lintian", "--allow-root", "--display-info", "--pedantic", f"--fail-on={levels}", DEB["first"])

    def test_rpmlint_finds_nothing(self) -> None:
        self.need("rpmlint")
        report = run("rpmlint", "--config", ROOT / "packaging/rpm/rpmlint.toml", RPM["first"])
        self.assertIn("0 errors, 0 warnings", report)

    def test_the_same_program_gives_the_same_bytes(self) -> None:
        for packages in (DEB, RPM):
            self.assertEqual(packages["first"].name, packages["again"].name)
            self.assertEqual(packages["first"].read_bytes(), packages["again"].read_bytes())
            self.assertNotEqual(packages["first"].read_bytes(), packages["second"].read_bytes())

    def test_nothing_is_missing(self) -> None:
        listing = subprocess.check_output(f"dpkg-deb --fsys-tarfile '{DEB['first']}' | tar -t", shell=True, text=True)
        held = {line.removeprefix(".") for line in listing.splitlines()}
        self.assertEqual([file for file in FILES + DEB_FILES if file not in held], [])
        self.need("rpm")
        held = set(run("rpm", "-qlp", RPM["first"]).splitlines())
        self.assertEqual([file for file in FILES + RPM_FILES if file not in held], [])

    def test_the_configuration_belongs_to_the_admin(self) -> None:
        self.assertEqual(run("dpkg-deb", "--info", DEB["first"], "conffiles").split(), ["/etc/bedrock-sidecar/config.toml"])
        self.need("rpm")
        flags = run("rpm", "-qp", "--qf", "[%{FILENAMES} %{FILEFLAGS:fflags}\n]", RPM["first"])
        self.assertIn("/etc/bedrock-sidecar/config.toml cn", flags)

    def test_only_what_every_host_has_is_required(self) -> None:
        depends = run("dpkg-deb", "--field", DEB["first"], "Depends").strip()
        self.assertEqual(
            depends, "libc6 (>= 2.34), libgcc-s1, systemd | systemd-standalone-sysusers | systemd-sysusers"
        )
        self.need("rpm")
        requires = {line for line in run("rpm", "-qp", "--requires", RPM["first"]).splitlines() if "rpmlib" not in line}
        libraries = {"libc.so.6(GLIBC_2.34)(64bit)", "libgcc_s.so.1()(64bit)", "libm.so.6()(64bit)"}
        self.assertEqual({r for r in requires if not r.startswith("config(")}, libraries | {"/bin/sh", "systemd"})
        program = ROOT / "target/package/tree/common/usr/bin/bedrock-sidecar"
        dynamic = run("readelf", "--dynamic", "--wide", program)
        needed = {line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line}
        self.assertLessEqual(needed, {"libc.so.6", "libgcc_s.so.1", "libm.so.6", "ld-linux-x86-64.so.2"})
        found = re.findall(r"GLIBC_(\d+)\.(\d+)", run("objdump", "-T", program))
        versions = [(int(major), int(minor)) for major, minor in found]
        self.assertLessEqual(max(versions), (2, 34), "RHEL 9 and Amazon Linux 2023")
