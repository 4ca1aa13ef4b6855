#!/usr/bin/env bash
# Checks the templates: cfn-lint (pinned, in a virtual environment under target/) and `terraform validate`. A tool that
# cannot be had is named as NOT RUN; what is found wrong fails.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${CARGO_TARGET_DIR:-$root/target}/packaging-aws
lint_version=1.58.0
failed=0
mkdir -p "$cache"

lint=$cache/venv-$lint_version/bin/cfn-lint
if [ ! -x "$lint" ]; then
    python3 -m venv "$cache/venv-$lint_version" >"$cache/venv.log" 2>&1 &&
        "$cache/venv-$lint_version/bin/pip" install -q "cfn-lint==$lint_version" >>"$cache/venv.log" 2>&1
fi
if [ -x "$lint" ]; then
    # GovCloud's and the commercial partition's own resource specifications.
    "$lint" --regions us-gov-west-1 us-gov-east-1 --template "$here/cloudformation/govcloud.yaml" || failed=1
    "$lint" --regions us-east-1 us-west-2 --template "$here/cloudformation/commercial.yaml" || failed=1
    [ $failed = 0 ] && echo "ok: cfn-lint $lint_version"
else
    echo "NOT RUN: cfn-lint: $(tail -1 "$cache/venv.log")"
fi

if ! command -v terraform >/dev/null; then
    echo "NOT RUN: terraform: it is not installed"
else
    terraform fmt -check -recursive "$here/terraform" || failed=1
    for module in govcloud commercial; do
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
