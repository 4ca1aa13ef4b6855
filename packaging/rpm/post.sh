systemd-sysusers bedrock-sidecar.conf || :
if [ -d /run/systemd/system ]; then
    systemd-tmpfiles --create bedrock-sidecar.conf || :
    systemctl daemon-reload || :
    # After an upgrade or downgrade, a daemon that runs is started anew with the new program. Connections wait in the
    # socket unit meanwhile. The reload comes first because the new program checks the configuration in it, under the
    # service's own rights: a daemon that works is not stopped for one that would not start.
    if [ "$1" -gt 1 ] && systemctl is-active --quiet bedrock-sidecar.service; then
        if ! systemctl reload bedrock-sidecar.service; then
            {
                echo "bedrock-sidecar: this version does not accept the configuration, so the former one goes on running:"
                /usr/bin/bedrock-sidecar check 2>&1 >/dev/null |
                    sed "s/^/    /"
                echo "bedrock-sidecar: correct it, then run: systemctl restart bedrock-sidecar"
            } >&2
        elif ! systemctl restart bedrock-sidecar.service; then
            echo "bedrock-sidecar: the daemon did not start again; journalctl -u bedrock-sidecar says why" >&2
        fi
    elif [ "$1" -eq 1 ]; then
        if missing=$(/usr/bin/bedrock-sidecar check 2>&1 >/dev/null); then
            echo "bedrock-sidecar: to start it, run: systemctl enable --now bedrock-sidecar"
        else
            echo "bedrock-sidecar: it is not started, because its configuration cannot be used yet:"
            echo "$missing" | sed "s/^/    /"
            echo "bedrock-sidecar: correct it, then run: systemctl enable --now bedrock-sidecar"
        fi
    fi
fi
exit 0
