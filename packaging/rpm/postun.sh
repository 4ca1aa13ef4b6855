# State, user and a changed configuration stay: rpm knows no purge.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
fi
if [ "$1" -eq 0 ]; then
    # cargo-generate-rpm makes packages that own files only.
    find /etc/bedrock-sidecar /usr/share/doc/bedrock-sidecar /usr/share/licenses/bedrock-sidecar \
        -depth -type d -empty -delete 2>/dev/null || :
fi
exit 0
