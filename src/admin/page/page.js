// The page: what is asked for when, and where the answers are shown. Nothing here changes anything in the daemon.

import { NoAnswer, ask } from "./ask.js";
import { showCharts } from "./charts.js";
import { byId, element, fill, mark } from "./dom.js";
import { duration } from "./format.js";
import { showChain, showLedger, showLimits, showUpstreams, showVerdict } from "./health.js";
import { listen, listenAnew } from "./live.js";
import { showModels } from "./models.js";
import { findFrom, showRecord } from "./record.js";
import { arrive, loadRequests, showRequests } from "./requests.js";
import { DIMENSIONS, FILTERS, WINDOWS, address, follow, go, onChange, state, usageQuery } from "./state.js";
import { showErrors, showTiles, showUsage } from "./usage.js";

/** How often figures are asked for at most, and at least, in milliseconds; of a long time seldom. */
const PACE = { "15m": [1000, 10_000], "1h": [1000, 15_000], "24h": [5000, 60_000], "7d": [15_000, 120_000] };

let access;
let status;
let usage;
let upstreams;
let askedAt = 0;
let pending;

controls();
document.addEventListener("click", clicked);
findFrom(byId("find"));
onChange(view);
begin();

async function begin() {
    try {
        access = await ask("/v1/dashboard/access");
    } catch (problem) {
        if (problem.status === 403) {
            refused(problem);
            return;
        }
        gone(problem);
        setTimeout(begin, 2000);
        return;
    }
    showAccess();
    listen({ request: newRequest, status: newStatus, back, refused, gone });
    showRecord();
    models();
    chain();
    setInterval(() => Date.now() - askedAt > PACE[state().window][1] && !document.hidden && figures(), 1000);
}

/** The daemon answers, for the first time or again. */
function back() {
    byId("refused").hidden = true;
    byId("view").hidden = false;
    if (Date.now() - askedAt > PACE[state().window][0]) figures();
    requests();
}

/** Another view of the same page. */
function view(now, before) {
    controls();
    const narrowed = Object.keys(FILTERS).some((key) => now[key] !== before[key]) || now.window !== before.window;
    if (narrowed || now.by !== before.by) figures();
    else if (usage) showUsage(usage);
    if (narrowed || now.page !== before.page) requests();
    if (narrowed) listenAnew();
    if (now.open !== before.open) {
        showRequests();
        showRecord();
    }
}

function clicked(event) {
    follow(event);
    const link = event.target.closest("a[data-to]");
    if (link) byId(link.dataset.to).focus({ preventScroll: false });
    // The row of a request is as good as its link, for those who point.
    const row = event.target.closest("tr[data-request]");
    if (row && !event.target.closest("a") && !getSelection().toString()) go({ open: row.dataset.request });
}

async function figures() {
    clearTimeout(pending);
    pending = undefined;
    askedAt = Date.now();
    const { by, window } = state();
    const query = usageQuery({ by });
    const current = () => query === usageQuery({ by: state().by });
    const get = (dimension) => ask(`/v1/dashboard/usage?${usageQuery({ by: dimension })}`);
    try {
        const answer = await get(by);
        const callers = by === "caller" ? answer : await get("caller");
        if (!current()) return;
        usage = answer;
        showTiles(usage, callers);
        showCharts(usage);
        showUsage(usage);
        showErrors(usage, status?.lastErrors);
        if (status) showVerdict(status, { ...usage.total, window: WINDOWS[window] });
        upstreams = by === "upstream" ? answer : await get("upstream");
        if (status) showUpstreams(status, upstreams);
    } catch (problem) {
        if (current()) trouble(problem, "The figures cannot be shown");
    }
}

async function requests() {
    try {
        await loadRequests();
    } catch (problem) {
        if (problem.status === 403) refused(problem);
        else
            fill(
                byId("requests-table"),
                element("p", { class: "notice" }, `The requests cannot be shown: ${problem.message}`),
            );
    }
}

async function models() {
    try {
        showModels(await ask("/v1/dashboard/models"));
    } catch (problem) {
        showModels(undefined, problem);
    }
}

async function chain() {
    try {
        showChain(await ask("/v1/dashboard/chain"), undefined, chain);
    } catch (problem) {
        showChain(undefined, problem, chain);
    }
}

function newRequest(item) {
    arrive(item);
    if (pending) return;
    const since = Date.now() - askedAt;
    // Not at once: the figures have a request a moment after its record.
    pending = setTimeout(figures, Math.max(300, PACE[state().window][0] - since));
}

function newStatus(document) {
    status = document;
    showVerdict(status, usage?.total);
    showUpstreams(status, upstreams);
    showLedger(status);
    showLimits(status);
    if (usage) showErrors(usage, status.lastErrors);
    showHost();
}

function showAccess() {
    const { scope, uid } = access;
    fill(
        byId("scope"),
        scope === "all"
            ? "everybody's requests"
            : mark("none", `your own requests only (uid ${uid}); members of ${access.groups.join(", ")} see all`),
    );
    showHost();
}

function showHost() {
    const parts = [access?.hostId, status?.version ?? access?.version, status && `up ${duration(status.upSeconds)}`];
    fill(byId("host"), parts.filter(Boolean).join(" · "));
}

/** The daemon does not answer. What was shown stays, and says that it is old. */
function gone(problem) {
    document.querySelector("header").className = "ill";
    fill(
        byId("ready"),
        element("strong", { class: "bad" }, mark("bad", "Not connected")),
        `: ${problem.message}. What is shown is from before.`,
    );
    const hints = [
        element(
            "li",
            { class: "bad" },
            "Is the forward still open (",
            element("code", {}, "ssh -L 8791:127.0.0.1:8791 HOST"),
            "), and the daemon running (",
            element("code", {}, "systemctl status bedrock-sidecar"),
            ")? This page goes on by itself.",
        ),
    ];
    byId("attention").hidden = false;
    fill(byId("attention"), hints);
}

/** The daemon does not tell whoever this is. */
function refused(problem) {
    document.querySelector("header").className = "look";
    fill(byId("ready"), element("strong", { class: "doubtful" }, mark("doubtful", "No access")));
    byId("attention").hidden = true;
    byId("view").hidden = true;
    const panel = byId("refused");
    panel.hidden = false;
    const code = (text) => element("code", {}, text);
    fill(
        panel,
        element("h2", { id: "refused-title" }, "Requests are shown to local users only"),
        element("p", { class: "sentence" }, problem.message),
        element("h3", {}, "How to get access"),
        element("ul", { class: "steps" }, [
            element(
                "li",
                {},
                "From another machine: ",
                code("ssh -L 8791:127.0.0.1:8791 HOST"),
                ", then http://127.0.0.1:8791. The connection is then made by the user that you log in as.",
            ),
            element(
                "li",
                {},
                "To see everybody's requests, that user has to be in the group: ",
                code("sudo usermod -aG bedrock-sidecar USER"),
                ". Others see their own.",
            ),
            element(
                "li",
                {},
                "Through a container's network or a proxy the kernel cannot tell who asks. Connect on the host itself.",
            ),
            element(
                "li",
                {},
                "On the host, as root: ",
                code("bedrock-sidecar status"),
                " and ",
                code("bedrock-sidecar audit list"),
                ".",
            ),
        ]),
    );
}

function trouble(problem, what) {
    if (problem instanceof NoAnswer && problem.status === 403) {
        refused(problem);
        return;
    }
    const notice = byId("figures-notice");
    notice.hidden = false;
    fill(notice, `${what}: ${problem.message}`);
}

/** What is chosen by whoever looks: time, dimension and filters. */
function controls() {
    const now = state();
    const tabs = (id, words, key) =>
        fill(
            byId(id),
            Object.entries(words).map(([value, text]) =>
                element(
                    "a",
                    {
                        href: address({ [key]: value, page: "" }),
                        "data-view": true,
                        "aria-current": now[key] === value ? "true" : undefined,
                    },
                    text,
                ),
            ),
        );
    tabs("windows", WINDOWS, "window");
    tabs("dimensions", DIMENSIONS, "by");
    const set = Object.entries(FILTERS).filter(([key]) => now[key]);
    fill(
        byId("chips"),
        set.map(([key, title]) =>
            element(
                "a",
                {
                    href: address({ [key]: "", page: "" }),
                    "data-view": true,
                    "aria-label": `Remove the filter ${title} ${now[key]}`,
                },
                `${title}: ${now[key]} ×`,
            ),
        ),
        set.length > 1
            ? element(
                  "a",
                  {
                      href: address({ ...Object.fromEntries(set.map(([key]) => [key, ""])), page: "" }),
                      "data-view": true,
                  },
                  "clear all",
              )
            : null,
    );
    filterForm(now);
}

function filterForm(now) {
    const form = byId("filter");
    if (!form.children.length) {
        if (matchMedia("(max-width: 700px)").matches) byId("filters").open = false;
        const field = (key, title) =>
            element(
                "label",
                {},
                element("span", {}, title),
                key === "result"
                    ? results()
                    : element("input", { name: key, autocomplete: "off", spellcheck: "false" }),
            );
        fill(
            form,
            Object.entries(FILTERS).map(([key, title]) => field(key, title)),
            element("button", {}, "Apply"),
        );
        form.addEventListener("submit", (event) => {
            event.preventDefault();
            const given = Object.fromEntries(new FormData(form));
            for (const key of Object.keys(given)) given[key] = given[key].trim();
            go({ ...given, page: "" });
        });
    }
    for (const key of Object.keys(FILTERS)) form.elements[key].value = now[key];
}

function results() {
    const words = [
        "completed",
        "upstream_error",
        "refused",
        "client_disconnected",
        "client_stalled",
        "upstream_broke",
        "interrupted",
    ];
    const option = (value, text) => element("option", { value }, text);
    return element(
        "select",
        { name: "result" },
        option("", "any"),
        option("failed", "failed, whatever way"),
        words.map((word) => option(word, word.replaceAll("_", " "))),
    );
}
