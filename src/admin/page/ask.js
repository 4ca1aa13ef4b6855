// Questions to the daemon, two at a time: it answers few at once, and other readers have theirs.

const AT_ONCE = 2;
let running = 0;
const waiting = [];

/** Why there is no answer. `status` is 0 if the daemon could not be reached. */
export class NoAnswer extends Error {
    constructor(status, message) {
        super(message);
        this.status = status;
    }
}

/** The JSON at `path`. */
export async function ask(path) {
    await turn();
    try {
        for (let tries = 1; ; tries += 1) {
            const answer = await get(path);
            if (answer.status !== 429 || tries === 3) return await read(answer);
            const pause = Number(answer.headers.get("retry-after")) || 2;
            await new Promise((resolve) => setTimeout(resolve, pause * 1000));
        }
    } finally {
        running -= 1;
        waiting.shift()?.();
    }
}

async function turn() {
    while (running >= AT_ONCE) await new Promise((resolve) => waiting.push(resolve));
    running += 1;
}

async function get(path) {
    try {
        return await fetch(path, { cache: "no-store", credentials: "omit" });
    } catch {
        throw new NoAnswer(0, "the daemon does not answer");
    }
}

async function read(answer) {
    let document;
    try {
        document = await answer.json();
    } catch {
        throw new NoAnswer(answer.ok ? 0 : answer.status, `the answer (${answer.status}) cannot be read`);
    }
    if (answer.ok) return document;
    const said = document?.message ?? document?.error?.message;
    throw new NoAnswer(answer.status, typeof said === "string" ? said : `the daemon answered with ${answer.status}`);
}
