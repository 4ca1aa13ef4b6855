// Figures of a span of time: the tiles, the table of who used what, and what failed.

import { byId, element, empty, fill, mark } from "./dom.js";
import { count, dollars, milliseconds, moment, of, percent, short } from "./format.js";
import { DIMENSIONS, FILTER_OF, WINDOWS, address, requestsQuery, state, usageQuery } from "./state.js";

/** Columns that a narrower screen leaves out. */
const rare = (column) => (["p50", "first", "cache"].includes(column) ? "number widest" : "number");
/** What the table's columns are, and what they are sorted by. */
const COLUMNS = [
    ["requests", "Requests", (group) => group.requests, count],
    ["errors", "Errors", (group) => group.errors],
    ["p50", "p50", (group) => group.latencyMs?.p50, milliseconds],
    ["p95", "p95", (group) => group.latencyMs?.p95, milliseconds],
    ["p99", "p99", (group) => group.latencyMs?.p99, milliseconds],
    ["first", "First byte p95", (group) => group.firstByteMs?.p95, milliseconds],
    ["in", "Tokens in", (group) => group.inputTokens, count],
    ["out", "Tokens out", (group) => group.outputTokens, count],
    ["cache", "Cache read / written", (group) => group.cacheReadTokens + group.cacheWriteTokens],
    ["cost", "Cost", (group) => group.costNanoUsd],
];

/** What the daemon calls those without a name, and those for whose names it has no room. */
const NO_NAMES = ["(none)", "(other)", "unknown"];

const spelled = (window) => ({ "15m": "15 minutes", "1h": "hour", "24h": "24 hours", "7d": "7 days" })[window];

export function showTiles(usage, callers) {
    const { total } = usage;
    const { latencyMs: latency, firstByteMs: first } = total;
    const minutes = Math.max(1, (new Date(usage.to) - new Date(usage.from)) / 60_000);
    const top = callers?.groups?.find((group) => group.name !== null);
    const share = top ? percent(top.requests, callers.total.requests) : "";
    const failing = total.errors > 0 ? "bad" : "";
    const tiles = [
        ["Requests", count(total.requests), `${Number((total.requests / minutes).toPrecision(2))} a minute`],
        [
            "Failed",
            element("span", { class: failing }, count(total.errors)),
            total.requests ? `${percent(total.errors, total.requests)} of the requests` : "of no requests",
        ],
        [
            "Latency p95",
            milliseconds(latency?.p95),
            latency ? `p50 ${milliseconds(latency.p50)}, p99 ${milliseconds(latency.p99)}` : "nothing was measured",
        ],
        [
            "First byte p95",
            milliseconds(first?.p95),
            first ? `p50 ${milliseconds(first.p50)}, p99 ${milliseconds(first.p99)}` : "nothing was measured",
        ],
        [
            "Tokens in / out",
            `${short(total.inputTokens)} / ${short(total.outputTokens)}`,
            `cache: ${short(total.cacheReadTokens)} read, ${short(total.cacheWriteTokens)} written`,
        ],
        ["Cost", money(total), priced(total)],
        [
            "Most requests",
            top ? element("span", { title: top.name }, top.name) : "–",
            top ? `${share} of the requests; ${money(top)}` : "no caller yet",
        ],
    ];
    fill(
        byId("tiles"),
        tiles.map(([name, value, under], at) => {
            const key = ["requests", "failed", "latency", "first-byte", "tokens", "cost", "caller"][at];
            return element(
                "div",
                { "data-tile": key },
                element("dt", {}, name),
                element("dd", {}, value),
                element("dd", { class: "under" }, under),
            );
        }),
    );
    const notice = byId("figures-notice");
    notice.hidden = usage.counted >= 1;
    if (!notice.hidden) {
        fill(
            notice,
            `The figures are being counted anew from the records; ${Math.floor(usage.counted * 100)} % are in.`,
        );
    }
}

const money = (sums) => (sums.costNanoUsd === 0 && sums.unpriced > 0 ? "–" : dollars(sums.costNanoUsd));

function priced(total) {
    if (total.requests === 0) return "of no requests";
    if (total.unpriced === 0) return "by your prices";
    if (total.costNanoUsd === 0) return ["no prices: set ", element("code", {}, "limits.prices_file")];
    return `without ${of(total.unpriced, "request", "requests")} that no price fits`;
}

export function showUsage(usage) {
    const { by, sort } = state();
    const [, , key] = COLUMNS.find(([name]) => name === sort) ?? COLUMNS[0];
    const groups = [...usage.groups].sort(
        (a, b) => (a.name === null) - (b.name === null) || (key(b) ?? -1) - (key(a) ?? -1),
    );
    fill(
        byId("usage-links"),
        downloads("usage", "/v1/dashboard/usage", (format) => usageQuery({ by, format })),
    );
    if (!groups.length) {
        fill(byId("usage-table"), nothing());
        return;
    }
    const head = COLUMNS.map(([name, title]) =>
        element(
            "th",
            { scope: "col", class: rare(name), "aria-sort": name === sort ? "descending" : undefined },
            element("a", { href: address({ sort: name }), "data-view": true }, title),
        ),
    );
    const most = Math.max(1, ...groups.map((group) => group.requests));
    const rows = groups.map((group) =>
        element("tr", {}, element("th", { scope: "row", class: "name" }, name(group, by)), cells(group, most)),
    );
    fill(
        byId("usage-table"),
        element(
            "table",
            {},
            element("thead", {}, element("tr", {}, element("th", { scope: "col" }, DIMENSIONS[by]), head)),
            element("tbody", {}, rows),
        ),
    );
}

function name(group, by) {
    if (group.name === null) return element("span", { class: "quiet" }, `${count(group.others)} others`);
    if (NO_NAMES.includes(group.name)) return element("span", { class: "quiet" }, group.name);
    const view = { [FILTER_OF[by]]: group.name, page: "" };
    return element("a", { href: address(view), "data-view": true, title: `Only ${group.name}` }, group.name);
}

function cells(group, most) {
    const share = element("span", { class: "share", "aria-hidden": "true" }, element("span", {}));
    share.firstChild.style.width = `${Math.max(2, (group.requests / most) * 100)}%`;
    return COLUMNS.map(([column, , key, show]) => {
        let shown = show?.(key(group));
        if (column === "requests") shown = [shown, share];
        if (column === "errors") {
            const { errors, requests } = group;
            shown = errors ? element("span", { class: "bad" }, `${count(errors)} (${percent(errors, requests)})`) : "0";
        }
        if (column === "cache") shown = `${count(group.cacheReadTokens)} / ${count(group.cacheWriteTokens)}`;
        if (column === "cost") shown = money(group);
        return element("td", { class: rare(column), "data-column": column }, shown);
    });
}

function nothing() {
    const { window, modelId, caller, operation, region } = state();
    if (modelId || caller || operation || region) {
        const cleared = { modelId: "", caller: "", operation: "", region: "", page: "" };
        return empty(
            `No request of the last ${spelled(window)} fits the filters. `,
            element("a", { href: address(cleared), "data-view": true }, "Clear them"),
            ".",
        );
    }
    const longer = Object.keys(WINDOWS)[Object.keys(WINDOWS).indexOf(window) + 1];
    return empty(
        `No requests in the last ${spelled(window)}. `,
        longer
            ? [
                  element(
                      "a",
                      { href: address({ window: longer, page: "" }), "data-view": true },
                      `Look at ${WINDOWS[longer]}`,
                  ),
                  ", or send ",
              ]
            : "Send ",
        "a first one: ",
        element("code", {}, 'eval "$(bedrock-sidecar env)"'),
        " points an AWS SDK here.",
    );
}

/** What failed in the span, and the latest kinds of failures that the daemon remembers. */
export function showErrors(usage, latest) {
    const total = usage.total.errors;
    const rows = [...usage.errors]
        .sort((a, b) => b.requests - a.requests)
        .map(({ outcome, statusCode, requests }) => {
            const view = { result: outcome, statusCode: String(statusCode), page: "" };
            return element(
                "tr",
                {},
                element(
                    "th",
                    { scope: "row" },
                    element(
                        "a",
                        { href: address(view), "data-view": true, "data-to": "requests" },
                        `${statusCode} ${outcome.replaceAll("_", " ")}`,
                    ),
                ),
                element("td", { class: "number" }, count(requests)),
                element("td", { class: "number" }, percent(requests, total)),
            );
        });
    const table = element(
        "table",
        {},
        element(
            "thead",
            {},
            element(
                "tr",
                {},
                ["Status and outcome", "Requests", "Share"].map((title, at) =>
                    element("th", { scope: "col", class: at ? "number" : undefined }, title),
                ),
            ),
        ),
        element("tbody", {}, rows),
    );
    const span = spelled(state().window);
    const none = usage.total.requests
        ? empty(mark("good", `Nothing failed in the last ${span}.`))
        : empty(`No requests in the last ${span}.`);
    fill(byId("errors-table"), rows.length ? table : none, latestFailures(latest));
}

function latestFailures(latest) {
    if (!latest?.length) return null;
    const rows = latest
        .slice(0, 4)
        .map((failure) =>
            element(
                "tr",
                {},
                element(
                    "td",
                    {},
                    element(
                        "a",
                        { href: address({ open: failure.requestId }), "data-view": true },
                        moment(failure.time, { date: false }),
                    ),
                ),
                element(
                    "td",
                    { class: "name wrap" },
                    element("b", {}, `${failure.status || ""} ${failure.errorType || failure.outcome}`),
                    failure.count > 1 ? ` ×${count(failure.count)}` : "",
                    element(
                        "span",
                        { class: "quiet" },
                        ` ${[failure.operation, failure.model, failure.region].filter(Boolean).join(", ")}`,
                    ),
                ),
            ),
        );
    return [
        element("h3", {}, "Latest kinds of failure"),
        element(
            "table",
            {},
            element(
                "thead",
                {},
                element("tr", {}, element("th", { scope: "col" }, "Last"), element("th", { scope: "col" }, "What")),
            ),
            element("tbody", {}, rows),
        ),
    ];
}

/** Links to what is shown, for programs. */
export function downloads(what, path, query) {
    return [
        ["csv", "CSV"],
        ["jsonl", "JSON lines"],
    ].map(([format, title]) =>
        element(
            "a",
            {
                href: `${path}?${query(format)}`,
                download: `bedrock-sidecar-${what}.${format}`,
                "aria-label": `${title} of ${what}`,
            },
            title,
        ),
    );
}

export const requestDownloads = (more) =>
    downloads("requests", "/v1/dashboard/requests", (format) => requestsQuery({ ...more, format }));
