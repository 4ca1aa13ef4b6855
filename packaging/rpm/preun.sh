if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now bedrock-sidecar.service bedrock-sidecar-listen.socket || :
fi
exit 0
