// One record, whole: every attribute with what it says, its place in the chain, and how to find it with `audit`.

import { NoAnswer, ask } from "./ask.js";
import { GROUPS, OUTCOMES } from "./attributes.js";
import { byId, element, empty, fill } from "./dom.js";
import { bytes, count, dollars, milliseconds, moment } from "./format.js";
import { onPage, result } from "./requests.js";
import { go, state } from "./state.js";

const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;
const dialog = byId("record");
/** What had the focus before the record was opened. */
let cameFrom;

dialog.addEventListener("close", () => {
    if (state().open) go({ open: "" });
    const target = cameFrom && document.querySelector(`a[href="${CSS.escape(cameFrom)}"]`);
    target?.focus();
});
// A click beside it.
dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
});

/** Opens the record that the address names, or closes the one that is open. */
export async function showRecord() {
    const { open } = state();
    if (!open) {
        if (dialog.open) dialog.close();
        return;
    }
    const link = document.activeElement?.getAttribute("href");
    if (!dialog.open) cameFrom = link;
    const known = onPage(open);
    draw(open, known ? whole(known) : empty("Looking for it…"));
    if (!dialog.open) dialog.showModal();
    if (known) return;
    let found;
    try {
        found = await find(open);
    } catch (problem) {
        found = empty(`It cannot be looked for: ${problem.message}.`);
    }
    if (state().open === open) draw(open, found);
}

async function find(id) {
    if (!ID.test(id)) throw new NoAnswer(400, "an id has the form 01234567-89ab-7cde-8f01-23456789abcd");
    const answer = await ask(
        `/v1/dashboard/requests?${new URLSearchParams({ requestId: id, timeRange: "all", limit: 1 })}`,
    );
    const item = answer.requests.find((one) => one.requestId === id.toLowerCase());
    if (item) return whole(item);
    return empty(
        "No record that you may see has this id. It may be of another host, older than ",
        element("code", {}, "audit.retention"),
        ", still under way, or counted in another record (",
        element("code", {}, "repeated"),
        "). The fleet's records: ",
        element("code", {}, "bedrock-sidecar audit list --source dynamodb"),
        ".",
    );
}

function draw(id, content) {
    const close = element("button", { type: "button", onclick: () => dialog.close() }, "Close");
    fill(
        dialog,
        element(
            "div",
            { class: "head" },
            element("h2", { id: "record-title" }, "Record ", element("span", { class: "mono" }, id)),
            close,
        ),
        element("div", { class: "inner" }, content),
    );
}

function whole(item) {
    const left = new Set(Object.keys(item));
    const groups = Object.entries(GROUPS).map(([title, attributes]) => {
        const rows = Object.entries(attributes)
            .filter(([name]) => left.delete(name))
            .map(([name, what]) => row(name, item[name], what));
        return rows.length ? group(title, rows) : null;
    });
    const others = [...left].sort().map((name) => row(name, item[name], "not known to this page"));
    return [sentence(item), groups, others.length ? group("Others", others) : null, commands(item)];
}

function group(title, rows) {
    const head = ["Attribute", "Value", "What it says"].map((text, at) =>
        element("th", { scope: "col", class: at === 2 ? "later" : undefined }, text),
    );
    return [
        element("h3", {}, title),
        element(
            "table",
            { "aria-label": title },
            element("thead", { class: "unseen" }, element("tr", {}, head)),
            element("tbody", {}, rows),
        ),
    ];
}

function row(name, value, what) {
    return element(
        "tr",
        { "data-attribute": name },
        element("th", { scope: "row", title: what }, element("code", {}, name)),
        element("td", {}, shown(name, value)),
        element("td", { class: "what later" }, what),
    );
}

function shown(name, value) {
    const text = typeof value === "object" ? JSON.stringify(value) : String(value);
    if (typeof value === "number") {
        const meaning = {
            latency: milliseconds,
            firstByteLatency: milliseconds,
            requestSize: bytes,
            responseSize: bytes,
            costNanoUsd: dollars,
            ttl: (seconds) => moment(seconds * 1000),
            formerChainTtl: (seconds) => moment(seconds * 1000),
        }[name];
        return meaning ? [text, element("span", { class: "quiet" }, " (", meaning(value), ")")] : text;
    }
    if (name === "timestamp" || name === "lastTimestamp")
        return [text, element("span", { class: "quiet" }, ` (here ${new Date(value).toLocaleString()})`)];
    if (name === "outcome") return [text, element("span", { class: "quiet" }, ` (${OUTCOMES[value] ?? "?"})`)];
    return /Hash|Id$|Arn$/.test(name) ? element("span", { class: "mono" }, text) : text;
}

/** What happened, in one sentence. */
function sentence(item) {
    const who = item.caller ?? (item.callerUid === undefined ? "Somebody" : `uid ${item.callerUid}`);
    const model = item.modelId ? ` of ${item.modelId}` : "";
    const went =
        item.attempts > 0
            ? `, sent to ${item.destinationRegion}${item.attempts > 1 ? ` (${item.attempts} attempts)` : ""}`
            : ", not sent upstream";
    const why = item.errorMessage ? `: ${item.errorMessage}` : "";
    return element(
        "p",
        { class: "sentence" },
        result(item),
        ` ${who} asked for ${item.operation}${model}${went}${why}`,
    );
}

function commands(item) {
    const lines = [];
    if (ID.test(item.requestId ?? "")) {
        lines.push([
            "This record, from the ledger",
            `bedrock-sidecar audit list --request-id ${item.requestId} --format jsonl`,
        ]);
    }
    lines.push(["Whether the chain of records is whole", "bedrock-sidecar audit verify"]);
    return [element("h3", {}, "To check it"), place(item), lines.map(([title, command]) => copyable(title, command))];
}

/** Where it stands in the hash chain. */
function place({ chainSeq }) {
    if (!Number.isInteger(chainSeq)) return null;
    const before = chainSeq > 1 ? `record ${count(chainSeq - 1)} and so all before it` : "the beginning of the chain";
    return element("p", { id: "chain-position" }, `Record ${count(chainSeq)} of its chain. Its hash covers ${before}.`);
}

function copyable(title, command) {
    const text = element("code", {}, command);
    const button = element("button", { type: "button", "aria-label": `Copy: ${command}` }, "Copy");
    button.addEventListener("click", async () => {
        try {
            await navigator.clipboard.writeText(command);
            button.textContent = "Copied";
        } catch {
            // No clipboard without the user's leave: then it is marked, for the keys.
            getSelection().selectAllChildren(text);
            button.textContent = "Marked";
        }
    });
    return element(
        "div",
        {},
        element("span", { class: "quiet" }, title),
        element("div", { class: "command" }, text, button),
    );
}

/** Goes to the record whose id was written into the search field. */
export function findFrom(form) {
    form.addEventListener("submit", (event) => {
        event.preventDefault();
        const id = new FormData(form).get("id").trim();
        if (id) go({ open: id });
    });
}
