// What is looked at, as the query of the page's address has it: a view can be sent to a colleague, and the browser's
// back button leads to the one before.

export const WINDOWS = { "15m": "15 min", "1h": "1 h", "24h": "24 h", "7d": "7 d" };
export const DIMENSIONS = { model: "model", caller: "caller", operation: "operation", upstream: "upstream" };
/** The filter that a group's name stands for. */
export const FILTER_OF = { model: "modelId", caller: "caller", operation: "operation", upstream: "region" };
/** Filters and what they are called; the last two narrow only the list of requests. */
export const FILTERS = {
    modelId: "model",
    caller: "caller",
    operation: "operation",
    region: "upstream",
    result: "result",
    statusCode: "status",
};

const DEFAULTS = { window: "1h", by: "model", sort: "requests", page: "", open: "" };
const KNOWN = { window: Object.keys(WINDOWS), by: Object.keys(DIMENSIONS) };
const KEYS = [...Object.keys(DEFAULTS), ...Object.keys(FILTERS)];

let current = read();
let changed = () => {};

/** Calls `listener` with the new and the former state at every change, also one by the back button. */
export function onChange(listener) {
    changed = listener;
    window.addEventListener("popstate", () => become(read()));
}

export const state = () => current;

/** The address of the view that differs from this one by `changes`. */
export function address(changes) {
    const query = new URLSearchParams();
    for (const [key, value] of Object.entries({ ...current, ...changes })) {
        if (value && value !== DEFAULTS[key]) query.set(key, value);
    }
    const text = query.toString();
    return text ? `?${text}` : location.pathname;
}

/** Goes to that view. */
export function go(changes) {
    history.pushState(null, "", address(changes));
    become(read());
}

/** A click on a link to a view stays on the page, unless it asks for another tab. */
export function follow(event) {
    const link = event.target.closest("a[data-view]");
    if (
        !link ||
        event.defaultPrevented ||
        event.button !== 0 ||
        event.metaKey ||
        event.ctrlKey ||
        event.shiftKey ||
        event.altKey
    ) {
        return;
    }
    event.preventDefault();
    history.pushState(null, "", link.href);
    become(read());
}

/** The parameters of the daemon's answers about usage. */
export function usageQuery(more = {}) {
    const { window, modelId, caller, operation, region } = current;
    return query({ window, modelId, caller, operation, region, ...more });
}

/** The parameters of the list of requests, and of those that arrive. */
export function requestsQuery(more = {}) {
    const { window, modelId, caller, operation, region, result, statusCode } = current;
    const outcome = result && result !== "failed" ? result : "";
    const success = result === "failed" ? "false" : "";
    // Figures name callers without an entry by their uid; records have it in an attribute of its own.
    const [, callerUid] = /^uid:(\d+)$/.exec(caller) ?? [];
    const who = callerUid ? { callerUid } : { caller };
    return query({ timeRange: window, modelId, ...who, operation, region, outcome, success, statusCode, ...more });
}

function query(parameters) {
    return new URLSearchParams(Object.entries(parameters).filter(([, value]) => value)).toString();
}

function read() {
    const given = new URLSearchParams(location.search);
    const read = {};
    for (const key of KEYS) {
        const value = (given.get(key) ?? "").trim();
        read[key] = value && (!KNOWN[key] || KNOWN[key].includes(value)) ? value : (DEFAULTS[key] ?? "");
    }
    return read;
}

function become(next) {
    const former = current;
    current = next;
    changed(next, former);
}
