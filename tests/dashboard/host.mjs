// A host with the daemon on it: the simulator as Bedrock, the daemon, users with their apps, and a browser.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import readline from "node:readline";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const here = path.dirname(fileURLToPath(import.meta.url));
export const root = process.env.DASHBOARD_ROOT ?? path.resolve(here, "../..");
const binaries = process.env.BEDROCK_SIDECAR_BINARIES ?? path.join(root, "target/debug");
export const pictures = path.join(root, "target/dashboard");

/** The whole of a test's patience, in milliseconds: generous, because nothing waits for it to pass when all is well. */
export const PATIENCE = 30_000;
/** What the simulator takes. */
const API_KEY =
    "ABSKQmVkcm9ja0FQSUtleS1hYmNkLWF0LTEyMzQ1Njc4OTAxMjpub3QtYS1yZWFsLXNlY3JldC1vbmx5LWZvci10aGUtc2ltdWxhdG9y";

/** Users of this host, by what the daemon calls them. */
export const UIDS = { billing: 30_001, search: 30_002, nobody: 30_003 };

const PRICES = `
[[prices]]
model = "anthropic.*"
input = 3.00
output = 15.00
[[prices]]
model = "amazon.*"
input = 0.06
output = 0.24
`;

/** Waits until `probe` gives something true, and returns it. */
export async function eventually(what, probe) {
    const end = Date.now() + PATIENCE;
    for (;;) {
        const found = await probe();
        if (found) return found;
        if (Date.now() > end) throw new Error(`waited ${PATIENCE / 1000} s in vain: ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 50));
    }
}

export class Host {
    processes = [];
    folder = mkdtempSync(path.join(tmpdir(), "dashboard-"));

    /** Starts the simulator and the daemon. Without `prices` nothing is priced. */
    static async start({ prices = true } = {}) {
        const host = new Host();
        const ca = path.join(host.folder, "ca.pem");
        const simulator = host.spawn(path.join(binaries, "bedrock-simulator"), ["--ca-out", ca]);
        host.simulator = JSON.parse(await firstLine(simulator.stdout));
        writeFileSync(path.join(host.folder, "prices.toml"), PRICES);
        writeFileSync(
            path.join(host.folder, "credential.json"),
            JSON.stringify({ bedrock_api_key: API_KEY, region: "us-east-1" }),
        );
        mkdirSync(path.join(host.folder, "state"));
        host.ports = { main: await freePort(), admin: await freePort() };
        host.config = path.join(host.folder, "config.toml");
        writeFileSync(host.config, host.configuration(ca, prices));
        await host.run();
        return host;
    }

    configuration(ca, prices) {
        const upstream = (region) => `
[[upstreams]]
region = "${region}"
runtime_endpoint = "${this.simulator.tls}"
control_endpoint = "${this.simulator.tls}"
ca_file = "${ca}"
`;
        return `
[listen]
addresses = ["127.0.0.1:${this.ports.main}"]
admin_address = "127.0.0.1:${this.ports.admin}"
${upstream("us-east-1")}
[credentials]
source = "file"
file = "${path.join(this.folder, "credential.json")}"

[models]
deny = ["deepseek.*"]

[limits]
requests_per_minute = 100000
request_burst = 10000
${prices ? `prices_file = "${path.join(this.folder, "prices.toml")}"\nusd_per_day = 5.0` : ""}

[headers]
record = ["x-session"]

[audit]
state_dir = "${path.join(this.folder, "state")}"
table = ""

[[callers]]
name = "billing"
users = ["${UIDS.billing}"]

[[callers]]
name = "search"
users = ["${UIDS.search}"]
`;
    }

    /** Starts the daemon, or starts it again on the same ports. */
    async run() {
        this.daemon = this.spawn(path.join(binaries, "bedrock-sidecar"), ["run", "--config", this.config], {
            AWS_EC2_METADATA_DISABLED: "true",
            AWS_CONFIG_FILE: "/dev/null",
            AWS_ACCESS_KEY_ID: "AKIAHOSTROLEEXAMPLE1",
            AWS_SECRET_ACCESS_KEY: "host/role/secret",
        });
        await eventually("the daemon's readiness", async () => {
            if (this.daemon.exitCode !== null) throw new Error(`the daemon ended: ${this.daemon.said}`);
            return (await this.get("/ready").catch(() => undefined))?.status === 200;
        });
    }

    /** Ends the daemon in order. */
    async end() {
        const ended = once(this.daemon, "exit");
        this.daemon.kill("SIGTERM");
        await ended;
    }

    get admin() {
        return `http://127.0.0.1:${this.ports.admin}`;
    }

    get(where, from = this.admin) {
        return fetch(from + where, { signal: AbortSignal.timeout(PATIENCE) });
    }

    async json(where, from = this.admin) {
        const answer = await this.get(where, from);
        const text = await answer.text();
        if (!answer.ok) throw new Error(`${where}: ${answer.status} ${text}`);
        return JSON.parse(text);
    }

    /** Has the simulator do something else to requests that match. */
    async fault(fault) {
        const answer = await fetch(`${this.simulator.plain}/_simulator/faults`, {
            method: "POST",
            body: JSON.stringify(fault),
        });
        if (!answer.ok) throw new Error(await answer.text());
    }

    /** Runs a command line of the daemon's program on this host's configuration: its status and what it printed. */
    async command(line) {
        const [program, ...options] = line.split(" ");
        const child = this.spawn(path.join(binaries, program), [...options, "--config", this.config]);
        let out = "";
        child.stdout.on("data", (data) => (out += data));
        const [status] = await once(child, "close");
        return [status, out + child.said];
    }

    /** A port that leads to one of the daemon's as another user, as a forward of ssh does. */
    async as(uid, port) {
        const code = readFileSync(path.join(here, "forward.mjs"), "utf8");
        const options = [
            `--reuid=${uid}`,
            `--regid=${uid}`,
            "--clear-groups",
            process.execPath,
            "--input-type=module",
            "-e",
            code,
            String(port),
        ];
        const forwarder = this.spawn("setpriv", options);
        return Number(await firstLine(forwarder.stdout));
    }

    /** An app of this user's. */
    async app(uid) {
        return new App(`http://127.0.0.1:${await this.as(uid, this.ports.main)}`);
    }

    spawn(program, options, environment = {}) {
        const kept = Object.entries(process.env).filter(([name]) => !/^(AWS_|BEDROCK_)/.test(name));
        const child = spawn(program, options, {
            env: { ...Object.fromEntries(kept), ...environment },
            stdio: ["pipe", "pipe", "pipe"],
        });
        child.said = "";
        child.stderr.on("data", (data) => (child.said = (child.said + data).slice(-4000)));
        child.on("error", (error) => (child.said += error));
        this.processes.push(child);
        return child;
    }

    async stop() {
        const running = this.processes.filter((child) => child.exitCode === null && child.signalCode === null);
        const ended = running.map((child) => once(child, "exit"));
        running.forEach((child) => child.kill("SIGTERM"));
        const late = setTimeout(() => running.forEach((child) => child.kill("SIGKILL")), 10_000);
        await Promise.all(ended);
        clearTimeout(late);
        rmSync(this.folder, { recursive: true, force: true });
    }
}

/** An app that calls models without a signature: the kernel's word is its identity. */
export class App {
    constructor(endpoint) {
        this.endpoint = endpoint;
    }

    /** Calls a model, reads the whole answer, and returns the request's id. */
    async converse(model, text, operation = "converse", headers = {}) {
        const url = `${this.endpoint}/model/${encodeURIComponent(model)}/${operation}`;
        const body = JSON.stringify({ messages: [{ role: "user", content: [{ text }] }] });
        const answer = await fetch(url, {
            method: "POST",
            body,
            headers: { "content-type": "application/json", ...headers },
            signal: AbortSignal.timeout(PATIENCE),
        });
        await answer.arrayBuffer();
        return answer.headers.get("x-bedrock-sidecar-request-id");
    }
}

/** A browser without a window. Chromium refuses to run sandboxed as root. */
export const browser = () =>
    chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });

/** A page that notes what must never happen: a dialog, an error in a script, a breach of the content policy. */
export async function open(browser, url, options = {}, given) {
    const context =
        given ??
        (await browser.newContext({ viewport: { width: 1280, height: 900 }, acceptDownloads: true, ...options }));
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    page.trouble = [];
    page.on("dialog", (dialog) => {
        page.trouble.push(`dialog: ${dialog.message()}`);
        dialog.dismiss();
    });
    page.on("pageerror", (error) => page.trouble.push(`error: ${error.stack}`));
    page.on(
        "console",
        (message) => /Content Security Policy/i.test(message.text()) && page.trouble.push(message.text()),
    );
    page.on(
        "request",
        (request) => new URL(request.url()).hostname !== "127.0.0.1" && page.trouble.push(`asked ${request.url()}`),
    );
    await page.goto(url);
    return page;
}

export function picture(name) {
    if (!existsSync(pictures)) mkdirSync(pictures, { recursive: true });
    return path.join(pictures, `${name}.png`);
}

async function firstLine(stream) {
    for await (const line of readline.createInterface({ input: stream })) return line;
    throw new Error("the process ended without a word");
}

async function freePort() {
    const server = net.createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address();
    server.close();
    await once(server, "close");
    return port;
}
