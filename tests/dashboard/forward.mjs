// A TCP forwarder, as sshd makes one for a user that has logged in: the daemon sees this process's user, not
// that of its client.
//
//     node forward.mjs PORT     forwards to 127.0.0.1:PORT, and prints the port that it listens on

import net from "node:net";

const target = Number(process.argv.at(-1));
const server = net.createServer({ allowHalfOpen: true }, (client) => {
    const daemon = net.connect({ port: target, host: "127.0.0.1", allowHalfOpen: true });
    const end = () => [client, daemon].forEach((socket) => socket.destroy());
    client.pipe(daemon).on("error", end).on("close", end);
    daemon.pipe(client).on("error", end).on("close", end);
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
// It ends with whoever has started it.
process.stdin.on("end", () => process.exit()).resume();
