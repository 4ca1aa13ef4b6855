#!/usr/bin/env bash
# Fetches AWS's own DynamoDB Local from Maven Central into target/dynamodb-local, once. It is Amazon's, under its own
# licence: installed for tests, never committed. Prints the directory that holds it.
set -euo pipefail
version=2.6.1
root=$(cd "$(dirname "$0")/../../.." && pwd)
to=${CARGO_TARGET_DIR:-$root/target}/dynamodb-local/$version
if [ ! -e "$to/complete" ]; then
    for tool in java mvn; do
        command -v $tool >/dev/null || { echo "$tool is not installed" >&2; exit 3; }
    done
    mkdir -p "$to"
    cat >"$to/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>dynamodb-local</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>com.amazonaws</groupId><artifactId>DynamoDBLocal</artifactId><version>$version</version></dependency>
  </dependencies>
</project>
POM
    # Two test runs may get here at once.
    exec 9>"$to/lock"
    flock 9
    if [ ! -e "$to/complete" ]; then
        mvn -q -B -f "$to/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
            -DoutputDirectory="$to/lib" -DincludeScope=runtime >&2
        touch "$to/complete"
    fi
fi
echo "$to"
