// The newest requests, page by page, and live on the first page.

import { ask } from "./ask.js";
import { byId, element, empty, fill, mark } from "./dom.js";
import { count, dollars, milliseconds, moment, of } from "./format.js";
import { address, requestsQuery, state } from "./state.js";
import { requestDownloads } from "./usage.js";

const ON_A_PAGE = 25;
let items = [];
let total = 0;
let next;
let loaded = "";
/** Those that have arrived while the page was read. */
const arrived = new Set();

/** Reads the page of the list that the address names. */
export async function loadRequests() {
    const { page } = state();
    const query = requestsQuery({ limit: ON_A_PAGE, nextToken: page });
    const answer = await ask(`/v1/dashboard/requests?${query}`);
    // Somebody has gone on meanwhile.
    if (query !== requestsQuery({ limit: ON_A_PAGE, nextToken: state().page })) return;
    items = answer.requests;
    total = answer.totalCount;
    next = answer.nextToken;
    loaded = query;
    arrived.clear();
    showRequests();
}

/** Puts a request that has just ended on top of the first page. */
export function arrive(item) {
    if (state().page || loaded !== requestsQuery({ limit: ON_A_PAGE })) return;
    const known = items.findIndex((one) => one.requestId === item.requestId);
    if (known >= 0) {
        items[known] = item;
    } else {
        const at = items.findIndex((one) => one.timestamp <= item.timestamp);
        items.splice(at < 0 ? items.length : at, 0, item);
        if (items.length > ON_A_PAGE) items.length = ON_A_PAGE;
        total += 1;
        arrived.add(item.requestId);
    }
    showRequests();
}

/** A request of the page that is shown. */
export const onPage = (requestId) => items.find((item) => item.requestId === requestId);

export function showRequests() {
    const { page } = state();
    fill(byId("requests-count"), `${of(total, "record", "records")}${page ? "" : ", the newest first"}`);
    fill(byId("requests-links"), requestDownloads({ limit: ON_A_PAGE, nextToken: page }));
    fill(byId("requests-table"), items.length ? table() : nothing());
    fill(
        byId("pages"),
        page ? element("a", { href: address({ page: "" }), "data-view": true, "data-to": "requests" }, "Newest") : null,
        next
            ? element("a", { href: address({ page: next }), "data-view": true, "data-to": "requests" }, "Older")
            : null,
        page && !next ? element("span", { class: "quiet" }, "These are the oldest.") : null,
    );
}

function table() {
    const titles = [
        ["Time (UTC)"],
        ["Result"],
        ["Model"],
        ["Caller"],
        ["Operation", "later"],
        ["Upstream", "later"],
        ["Latency", "number"],
        ["First byte", "number later"],
        ["Tokens in / out", "number later"],
        ["Cost", "number later"],
    ];
    const head = titles.map(([title, kind]) => element("th", { scope: "col", class: kind }, title));
    return element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, items.map(row)));
}

function row(item) {
    const open = element(
        "a",
        { href: address({ open: item.requestId }), "data-view": true },
        moment(item.timestamp, { fraction: true, date: ["24h", "7d"].includes(state().window) }),
    );
    const who = item.caller ?? (item.callerUid === undefined ? "unknown" : `uid:${item.callerUid}`);
    const tokens =
        item.inputTokens === undefined && item.outputTokens === undefined
            ? "–"
            : `${known(item.inputTokens)} / ${known(item.outputTokens)}`;
    return element(
        "tr",
        { "data-request": item.requestId, class: arrived.has(item.requestId) ? "new" : undefined },
        element("td", {}, open),
        element("td", {}, result(item)),
        element("td", { class: "name", title: item.modelId }, item.modelId ?? "–"),
        element("td", { class: "name", title: who }, who),
        element("td", { class: "later" }, item.operation),
        element("td", { class: "later" }, item.destinationRegion ?? "–"),
        element("td", { class: "number" }, milliseconds(item.latency)),
        element("td", { class: "number later" }, milliseconds(item.firstByteLatency)),
        element("td", { class: "number later" }, tokens),
        element("td", { class: "number later" }, item.costNanoUsd === undefined ? "–" : dollars(item.costNanoUsd)),
    );
}

const known = (number) => (number === undefined ? "–" : count(number));

/** The status, and how it ended unless it went well. */
export function result(item) {
    const times = item.repeated ? ` ×${count(item.repeated + 1)}` : "";
    const tone = item.success ? "good" : item.outcome === "client_disconnected" ? "doubtful" : "bad";
    return mark(
        tone,
        `${item.statusCode || ""}${item.success ? "" : ` ${String(item.outcome).replaceAll("_", " ")}`}${times}`,
    );
}

function nothing() {
    const { modelId, caller, operation, region, result: how, statusCode, page } = state();
    if (modelId || caller || operation || region || how || statusCode || page) {
        const all = { modelId: "", caller: "", operation: "", region: "", result: "", statusCode: "", page: "" };
        return empty("No records fit. ", element("a", { href: address(all), "data-view": true }, "Show all"), ".");
    }
    return empty("No records in this time. A request appears here as soon as it has ended.");
}
