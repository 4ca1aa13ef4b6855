#!/usr/bin/env bash
# Checks the templates, the document for Systems Manager and the examples for containers: cfn-lint and test_templates.py (in
# a virtual environment under target/, pinned), shellcheck, and `terraform validate`. A tool that cannot be had is named as
# NOT RUN; what is found wrong fails. BEDROCK_SIDECAR_BINARIES (default: target/debug) has the program that reads the examples'
# configurations.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${CARGO_TARGET_DIR:-$root/target}/packaging-aws
lint_version=1.58.0
failed=0
mkdir -p "$cache"

packages=("cfn-lint==$lint_version" python-hcl2==8.1.4 kubernetes-validate==1.37.0 botocore==1.43.11)
venv=$cache/venv-$(printf '%s ' "${packages[@]}" | sha256sum | cut -c 1-12)
if [ ! -e "$venv/complete" ]; then
    python3 -m venv "$venv" >"$cache/venv.log" 2>&1 &&
        "$venv/bin/pip" install -q "${packages[@]}" >>"$cache/venv.log" 2>&1 && touch "$venv/complete"
fi
if [ -e "$venv/complete" ]; then
    # GovCloud's and the commercial partition's own resource specifications.
    lint() {
        "$venv/bin/cfn-lint" --regions "${@:2}" --template "$1" || failed=1
    }
    lint "$here/cloudformation/govcloud.yaml" us-gov-west-1 us-gov-east-1
    lint "$here/cloudformation/anchors.yaml" us-gov-west-1 us-gov-east-1
    lint "$here/cloudformation/commercial.yaml" us-east-1 us-west-2
    # cfn-lint knows documents of Systems Manager as resources only.
    {
        printf 'Resources:\n  Document:\n    Type: AWS::SSM::Document\n    Properties:\n      DocumentType: Command\n      Content:\n'
        sed 's/^/        /' "$here/ssm/install.yaml"
    } >"$cache/ssm.yaml"
    lint "$cache/ssm.yaml" us-gov-west-1 us-gov-east-1
    [ $failed = 0 ] && echo "ok: cfn-lint $lint_version"
    PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" "$here/test_templates.py" || failed=1
else
    echo "NOT RUN: cfn-lint and test_templates.py: $(tail -1 "$cache/venv.log")"
fi

if command -v shellcheck >/dev/null; then
    sed -n '/^ *- |$/,$p' "$here/ssm/install.yaml" | sed '1d; s/^          //' >"$cache/ssm.sh"
    shellcheck "$cache/ssm.sh" "$here/../examples/user-data.sh" && echo "ok: shellcheck" || failed=1
else
    echo "NOT RUN: shellcheck: it is not installed"
fi

if ! command -v terraform >/dev/null; then
    echo "NOT RUN: terraform: it is not installed"
else
    terraform fmt -check -recursive "$here/terraform" || failed=1
    for module in govcloud anchors commercial; do
        export TF_DATA_DIR=$cache/terraform-$module TF_IN_AUTOMATION=1 CHECKPOINT_DISABLE=1
        work=$cache/work-$module
        rm -rf "$work" && cp -r "$here/terraform/$module" "$work"
        if timeout 300 terraform -chdir="$work" init -backend=false -input=false -no-color >"$cache/init.log" 2>&1; then
            terraform -chdir="$work" validate -no-color || failed=1
        else
            echo "NOT RUN: terraform validate $module: $(grep -m1 -i error "$cache/init.log" || tail -1 "$cache/init.log")"
        fi
    done
fi
exit $failed
