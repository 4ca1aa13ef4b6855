// Elements. Whatever is shown goes in as text: names of models, callers and errors are written by strangers.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `properties` are attributes, except `class` and `on…` handlers; children are nodes or texts. */
export function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
        if (value === undefined || value === null || value === false) continue;
        if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
        else made.setAttribute(name, value === true ? "" : String(value));
    }
    append(made, children);
    return made;
}

/**
 * Puts children in place of those that are there, unless they are the same: what somebody reads, has marked or has
 * the focus on stays.
 */
export function fill(parent, ...children) {
    const next = parent.cloneNode(false);
    append(next, children);
    if (next.isEqualNode(parent)) return;
    const focused = parent.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    parent.replaceChildren(...next.childNodes);
    if (focused) [...parent.querySelectorAll("a[href]")].find((link) => link.getAttribute("href") === focused)?.focus();
}

function append(parent, children) {
    for (const child of children.flat(Infinity)) {
        if (child === undefined || child === null || child === false) continue;
        parent.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
}

export const byId = (id) => document.getElementById(id);

/** A word with a dot before it whose form tells what its colour tells: good, doubtful, bad, none. */
export function mark(tone, ...children) {
    return element("span", { class: `mark ${tone}` }, sign(tone), ...children);
}

function sign(tone) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 10 10");
    svg.setAttribute("class", "sign");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS(SVG, "path");
    const forms = {
        good: "M5 .5a4.5 4.5 0 1 1 0 9a4.5 4.5 0 1 1 0-9z",
        doubtful: "M5 .5L9.8 9.2H.2z",
        bad: "M1 1h8v8H1z",
        none: "M5 1.5a3.5 3.5 0 1 1 0 7a3.5 3.5 0 1 1 0-7zM5 3a2 2 0 1 0 0 4a2 2 0 1 0 0-4z",
    };
    path.setAttribute("d", forms[tone] ?? forms.none);
    svg.append(path);
    return svg;
}

/** How full something is, from 0 to 1. */
export function gauge(label, part) {
    const percent = Math.round(Math.min(Math.max(part, 0), 1) * 100);
    const tone = part >= 0.9 ? "bad" : part >= 0.75 ? "doubtful" : "";
    const bar = element("span", { class: `bar ${tone}` });
    bar.style.width = `${percent}%`;
    return element(
        "span",
        {
            class: "gauge",
            role: "meter",
            "aria-label": label,
            "aria-valuemin": 0,
            "aria-valuemax": 100,
            "aria-valuenow": percent,
        },
        bar,
    );
}

/** Names and values. A value that is undefined leaves its line out. */
export function facts(...pairs) {
    const shown = pairs.filter(([, value]) => value !== undefined && value !== null && value !== false);
    return element(
        "dl",
        { class: "facts" },
        shown.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
    );
}

/** A sentence where there is nothing to show. */
export const empty = (...children) => element("p", { class: "empty" }, ...children);
