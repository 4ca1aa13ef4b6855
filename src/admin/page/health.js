// The verdict, and the panels of what the daemon is made of, from the answer to /status.

import { byId, element, empty, facts, fill, gauge, mark } from "./dom.js";
import { ago, bytes, count, dollars, duration, milliseconds, of, percent } from "./format.js";

const PLANES = {
    runtime: "requests to models",
    control: "listings of models",
    agent_runtime: "Rerank",
    mantle: "requests to bedrock-mantle",
};
/** A credential is renewed five minutes before it expires; one with less left has not been. */
const OVERDUE_SECONDS = 240;
const NEARLY_ALL = 0.9;
/** Part of the requests that may fail without a colour. */
const MANY_FAILED = 0.05;

const clause = (text) => String(text).replace(/\.$/, "");
const part = (taken, whole) => (whole > 0 ? (taken ?? 0) / whole : 0);

/** The line at the top: whether it is well, and if not, why. */
export function showVerdict(status, total) {
    const reasons = status.reasons ?? [];
    const clauses = attention(status).filter((text) => !reasons.some((reason) => text.includes(clause(reason))));
    const bar = document.querySelector("header");
    const region = status.upstreams?.[0]?.region ?? "the upstream";
    if (!status.ready) {
        bar.className = "ill";
        fill(
            byId("ready"),
            element("strong", { class: "bad" }, mark("bad", "Not ready")),
            ": requests cannot be served",
        );
    } else if (clauses.length) {
        bar.className = "look";
        fill(byId("ready"), element("strong", { class: "doubtful" }, mark("doubtful", "Ready")), ", but look at this");
    } else {
        bar.className = "well";
        const failed =
            total && total.requests > 0 ? `${count(total.errors)} of ${count(total.requests)} requests failed` : "";
        const tone = part(total?.errors, total?.requests) > MANY_FAILED ? "doubtful" : undefined;
        fill(
            byId("ready"),
            element("strong", { class: "good" }, mark("good", "Ready")),
            `: requests go to ${region}`,
            failed && "; ",
            failed && element("span", { class: tone }, failed),
        );
    }
    const lines = reasons.map((reason) => element("li", { class: "bad" }, reason));
    if (!status.ready) {
        lines.push(
            element(
                "li",
                {},
                element("code", {}, "bedrock-sidecar check --online"),
                " tries each part and says what to do.",
            ),
        );
    }
    lines.push(...clauses.map((text) => element("li", {}, `${text}.`)));
    byId("attention").hidden = lines.length === 0;
    fill(byId("attention"), lines);
}

/** What deserves a look although requests are served. */
export function attention(status) {
    const clauses = [];
    if (status.reloadRefused) {
        clauses.push(
            `The last reload was refused, and the settings before it are in force: ${clause(status.reloadRefused)}`,
        );
    }
    ofCredential(status.credential, "", clauses);
    for (const upstream of status.upstreams ?? []) {
        ofUpstream(upstream, clauses);
        const problem = upstream.credential?.problem;
        if (problem && !clauses.some((text) => text.includes(clause(problem)))) {
            ofCredential(upstream.credential, ` of ${upstream.region}`, clauses);
        }
    }
    ofLedger(status.audit ?? {}, clauses);
    for (const scope of status.limits?.scopes ?? []) {
        const used = Math.max(scope.budgetUsed ?? 0, part(scope.tokensToday, scope.tokensPerDay));
        if (used >= NEARLY_ALL) clauses.push(`${scopeName(scope)} has used ${percent(used, 1)} of a budget`);
    }
    if (status.limits?.fleet?.leased === false) {
        clauses.push("The fleet's table gives no lease, so limits of the fleet hold by this host's share");
    }
    const { connections = {}, bodies = {} } = status;
    if (part(connections.clients, connections.max) >= NEARLY_ALL) {
        clauses.push("Nearly all connections are taken (listen.max_connections)");
    }
    if (part(bodies.bytes, bodies.maxBytes) >= NEARLY_ALL) {
        clauses.push("Request bodies take nearly all of their memory (limits.max_buffered_bytes)");
    }
    return clauses;
}

function ofCredential(credential, whose, clauses) {
    if (!credential) return;
    const left = credential.expiresInSeconds;
    const until = typeof left === "number" ? `; the one in use expires in ${duration(left)}` : "";
    if (credential.problem) {
        clauses.push(`The credential${whose} cannot be renewed: ${clause(credential.problem)}${until}`);
    } else if (typeof left === "number" && left < OVERDUE_SECONDS) {
        clauses.push(`The source of the credential${whose} gives no newer one${until}`);
    }
}

function ofUpstream(upstream, clauses) {
    const before = clauses.length;
    for (const breaker of upstream.breakers ?? []) {
        if (breaker.state === "closed") continue;
        const why = breaker.reason ? `: ${clause(breaker.reason)}` : "";
        const what = PLANES[breaker.plane] ?? breaker.plane;
        clauses.push(`${upstream.region} is passed over for ${what}${why} (its breaker is ${breaker.state})`);
    }
    if (upstream.objection) clauses.push(`${upstream.region} cannot be used: ${clause(upstream.objection)}`);
    if (clauses.length === before && upstream.paused) {
        clauses.push(`${upstream.region} is passed over because connects to it failed`);
    }
    if (upstream.modelsListed === false) clauses.push(`The models of ${upstream.region} have not been listed yet`);
}

function ofLedger(audit, clauses) {
    if (audit.tableReachable === false) {
        const why = audit.lastError ? `: ${clause(audit.lastError)}` : "";
        clauses.push(`${of(audit.pending, "record waits", "records wait")} for DynamoDB${why}`);
    } else if (audit.lastError) {
        clauses.push(clause(audit.lastError));
    }
    if (audit.setAside > 0) {
        clauses.push(
            `${of(audit.setAside, "record is", "records are")} set aside (bedrock-sidecar audit list --set-aside)`,
        );
    }
    if (audit.unrecorded > 0) {
        const were = of(audit.unrecorded, "request was", "requests were");
        clauses.push(`${were} answered and not recorded since the start`);
    }
    if (part(audit.bytes, audit.maxBytes) >= NEARLY_ALL)
        clauses.push("The ledger is nearly full (audit.max_ledger_bytes)");
}

export function showUpstreams(status, usage) {
    const latency = new Map((usage?.groups ?? []).map((group) => [group.name, group]));
    const upstreams = (status.upstreams ?? []).map((upstream) => {
        const seen = latency.get(upstream.region);
        return element(
            "div",
            { class: "part" },
            element("b", {}, upstream.region),
            element("span", { class: "quiet" }, ` ${upstream.partition}`),
            facts(
                ["state", standing(upstream)],
                ["breakers", breakers(upstream.breakers ?? [])],
                [
                    "latency",
                    seen?.latencyMs
                        ? `p50 ${milliseconds(seen.latencyMs.p50)}, p95 ${milliseconds(seen.latencyMs.p95)}`
                        : "no requests in this time",
                ],
                ["models", models(upstream)],
                ["credential", credential(upstream.credential)],
                ["data retention", upstream.dataRetention],
                ["endpoint", element("code", {}, upstream.runtime?.endpoint)],
            ),
        );
    });
    fill(byId("upstreams"), upstreams.length ? upstreams : empty("No upstream is configured ([[upstreams]])."));
}

function standing(upstream) {
    if (upstream.objection) return [mark("bad", "cannot be used"), `: ${upstream.objection}`];
    if (upstream.paused) return mark("bad", "passed over");
    return mark("good", "in use");
}

function breakers(all) {
    // Most hosts never rerank: that plane is told of when it is in trouble.
    const shown = all.filter(({ plane, state }) => plane !== "agent_runtime" || state !== "closed");
    return shown.map(({ plane, state, probeInSeconds }, at) => {
        const probe = typeof probeInSeconds === "number" ? `, tried again in ${probeInSeconds} s` : "";
        const tone = state === "closed" ? "good" : state === "open" ? "bad" : "doubtful";
        return [at ? ", " : "", mark(tone, `${plane} ${state}${probe}`)];
    });
}

function models({ models: known, modelsListed, modelsListedSecondsAgo: since }) {
    if (!modelsListed) return mark("doubtful", "not listed yet");
    return `${count(known ?? 0)} listed${typeof since === "number" ? ` ${duration(since)} ago` : ""}`;
}

function credential(known) {
    if (!known) return undefined;
    const parts = [known.kind ? known.kind : mark("bad", "none")];
    if (typeof known.confirmedSecondsAgo === "number") parts.push(`, read ${duration(known.confirmedSecondsAgo)} ago`);
    if (known.expiresInSeconds === 0) parts.push(", ", mark("bad", "expired"));
    else if (typeof known.expiresInSeconds === "number") parts.push(`, expires in ${duration(known.expiresInSeconds)}`);
    else if (known.kind) parts.push(", does not expire");
    if (known.problem) parts.push(". ", mark("bad", ""), known.problem);
    return parts;
}

export function showLedger({ audit = {} }) {
    const full = part(audit.bytes, audit.maxBytes);
    const table = audit.table
        ? [
              audit.tableReachable === false
                  ? mark("bad", "does not answer")
                  : audit.tableReachable
                    ? mark("good", "answers")
                    : "not asked yet",
              ` (${audit.table})`,
          ]
        : ["none: records stay on this host. ", element("code", {}, "audit.table"), " copies them to DynamoDB"];
    fill(
        byId("ledger"),
        facts(
            [
                "fullness",
                [
                    `${bytes(audit.bytes ?? 0)} of ${bytes(audit.maxBytes ?? 0)} (${percent(full, 1)})`,
                    gauge("Fullness of the ledger", full),
                ],
            ],
            ["table", table],
            [
                "backlog",
                audit.table
                    ? `${of(audit.pending ?? 0, "record", "records")} to ship, ${count(audit.shipped ?? 0)} shipped`
                    : undefined,
            ],
            [
                "last shipped",
                audit.table ? (audit.lastShippedAt ? ago(audit.lastShippedAt) : "not since the start") : undefined,
            ],
            [
                "last anchor",
                audit.lastAnchorAt
                    ? ago(audit.lastAnchorAt)
                    : ["none. ", element("code", {}, "[audit.anchor]"), " keeps the chain's head elsewhere"],
            ],
            ["newest record", audit.newestSeq ? `position ${audit.newestSeq} of the chain` : undefined],
            ["under way", of(audit.open ?? 0, "request", "requests")],
            ["set aside", audit.setAside > 0 ? mark("bad", count(audit.setAside)) : undefined],
            ["not recorded", audit.unrecorded > 0 ? mark("bad", count(audit.unrecorded)) : undefined],
        ),
    );
}

export function showLimits({ limits = {}, connections = {}, bodies = {} }) {
    const scopes = (limits.scopes ?? [])
        .map((scope) => [scopeName(scope), uses(scope)])
        .filter(([, lines]) => lines.length);
    const own = [
        use("connections", connections.clients, connections.max, count),
        use("request bodies in memory", bodies.bytes, bodies.maxBytes, bytes),
    ].filter(Boolean);
    const parts = [...scopes, ["This daemon", own]].map(([name, lines]) =>
        element("div", { class: "part" }, element("b", {}, name), lines),
    );
    const refused = (limits.limited ?? []).map(({ limit, scope, count: times }) =>
        element(
            "p",
            {},
            mark("doubtful", of(times, "request", "requests")),
            ` refused since the start by ${limit} (${scope})`,
        ),
    );
    if (limits.waiting > 0)
        refused.unshift(element("p", {}, mark("doubtful", of(limits.waiting, "request waits", "requests wait"))));
    if (!scopes.length)
        parts.unshift(empty("No limits are configured. ", element("code", {}, "[limits]"), " sets them, budgets too."));
    fill(byId("limits"), refused.length ? element("div", { class: "part" }, refused) : null, parts);
}

function uses(scope) {
    const left = (key, rest, most) =>
        typeof rest === "number" && typeof most === "number"
            ? element(
                  "p",
                  {},
                  `${key} ${count(most)}, `,
                  rest > 0 ? `${count(rest)} left now` : mark("bad", "none left now"),
              )
            : undefined;
    return [
        use("usd_per_day", scope.nanoUsdToday, scope.nanoUsdPerDay, dollars),
        use("usd_per_month", scope.nanoUsdThisMonth, scope.nanoUsdPerMonth, dollars),
        use("tokens_per_day", scope.tokensToday, scope.tokensPerDay, count),
        use("concurrent_requests", scope.running, scope.concurrentRequests, count),
        left("requests_per_minute", scope.requestsLeft, scope.requestsPerMinute),
        left("tokens_per_minute", scope.tokensLeft, scope.tokensPerMinute),
    ].filter(Boolean);
}

function use(name, taken, most, show) {
    if (typeof most !== "number" || typeof taken !== "number") return undefined;
    const full = part(taken, most);
    return element(
        "div",
        {},
        `${name}: ${show(taken)} of ${show(most)} (${percent(full, 1)})`,
        gauge(`${name} in use`, full),
    );
}

function scopeName({ scope, name }) {
    return scope === "host" ? "This host" : `${scope} ${name}`;
}

/** The result of following the hash chain of the newest records. */
export function showChain(chain, problem, again) {
    const button = element("button", { type: "button", onclick: again }, "Check again");
    let result;
    if (problem)
        result = problem.status === 403 ? "only members of the group may check it" : `not checked: ${problem.message}`;
    else if (!chain.checked) result = "no records yet";
    else if (chain.intact) result = mark("good", `whole: records ${count(chain.fromSeq)} to ${count(chain.toSeq)}`);
    else
        result = [
            mark("bad", "broken"),
            `: ${chain.problem}. `,
            element("code", {}, "bedrock-sidecar audit verify"),
            " names every record.",
        ];
    fill(
        byId("chain"),
        element("div", { class: "part" }, facts(["chain", [result, " "]]), problem?.status === 403 ? null : button),
    );
}
