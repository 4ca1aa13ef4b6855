// What the daemon tells by itself: each request that ends, and its state every two seconds. A browser has
// for one origin six connections over HTTP/1.1, so a page that nobody sees gives its one back.

import { NoAnswer, ask } from "./ask.js";
import { byId, fill, mark } from "./dom.js";
import { requestsQuery } from "./state.js";

const AGAIN_MS = 2000;
let source;
let heard;
let timer;

/**
 * Begins to listen. `listener` has `request`, `status`, `back` (the daemon answers, for the first time or again, with a
 * stream or without), `gone` and `refused`.
 */
export function listen(listener) {
    heard = listener;
    document.addEventListener("visibilitychange", () => (document.hidden ? stop() : open()));
    if (!document.hidden) open();
}

/** Listens by the filters of the present view. */
export function listenAnew() {
    if (!document.hidden) open();
}

function stop() {
    clearTimeout(timer);
    source?.close();
    source = undefined;
}

function open() {
    stop();
    const { timeRange, ...filters } = Object.fromEntries(new URLSearchParams(requestsQuery()));
    const query = new URLSearchParams(filters).toString();
    const opened = new EventSource(`/v1/dashboard/events${query ? `?${query}` : ""}`);
    source = opened;
    opened.addEventListener("open", () => {
        say("good", "live");
        heard.back();
    });
    opened.addEventListener("request", (event) => heard.request(JSON.parse(event.data)));
    opened.addEventListener("status", (event) => heard.status(JSON.parse(event.data)));
    opened.addEventListener("error", () => {
        if (source !== opened) return;
        stop();
        broken();
    });
}

/** Without a stream, as when one user has many pages open: the state by other means, until there is one again. */
async function broken() {
    let pause = AGAIN_MS;
    try {
        heard.status(await ask("/status"));
        await ask("/v1/dashboard/access");
        say("doubtful", "not live: asking again and again");
        heard.back();
        pause = 2 * AGAIN_MS;
    } catch (problem) {
        if (problem instanceof NoAnswer && problem.status === 403) {
            say("none", "no access");
            heard.refused(problem);
            return;
        }
        say("bad", "not connected: trying again");
        heard.gone(problem);
    }
    if (!source && !document.hidden) timer = setTimeout(open, pause);
}

function say(tone, text) {
    fill(byId("live"), mark(tone, text));
}
