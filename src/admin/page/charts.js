// The four charts: how requests, latency, tokens and cost went over the time that is looked at.

import { byId, element, fill } from "./dom.js";
import { count, dollars, milliseconds, short, utc } from "./format.js";

/* global uPlot */
/** `least` is the least top of the scale, `blank` its top where nothing was measured. */
const CHARTS = [
    {
        id: "requests",
        title: "Requests",
        bars: true,
        lines: [
            ["one", "all", (step) => step.requests],
            ["bad", "failed", (step) => step.errors],
        ],
        show: count,
        axis: short,
        sum: true,
        least: 5,
    },
    {
        id: "latency",
        title: "Latency",
        lines: [
            ["one", "p50", (step) => step.latencyMs?.p50 ?? null],
            ["two", "p95", (step) => step.latencyMs?.p95 ?? null],
            ["three", "p99", (step) => step.latencyMs?.p99 ?? null],
        ],
        show: milliseconds,
        axis: milliseconds,
        blank: 1000,
    },
    {
        id: "tokens",
        title: "Tokens",
        lines: [
            ["one", "in", (step) => step.inputTokens],
            ["two", "out", (step) => step.outputTokens],
        ],
        show: count,
        axis: short,
        sum: true,
        least: 5,
    },
    {
        id: "cost",
        title: "Cost",
        bars: true,
        lines: [["one", "US dollars", (step) => step.costNanoUsd]],
        show: dollars,
        axis: dollars,
        sum: true,
        blank: 1e9,
    },
];

const drawn = new Map();
let shown;

/** Draws the series of an answer about usage, with its sums. */
export function showCharts(usage) {
    shown = usage;
    const times = usage.series.map((step) => new Date(step.start).getTime() / 1000);
    for (const chart of CHARTS) {
        const values = chart.lines.map(([, , read]) => usage.series.map(read));
        const data = [times, ...values];
        let entry = drawn.get(chart.id);
        if (!entry || entry.step !== usage.stepSeconds) {
            entry?.plot.destroy();
            entry = draw(chart, data, usage.stepSeconds);
            drawn.set(chart.id, entry);
        } else {
            entry.plot.setData(data);
        }
        legend(chart, entry, null);
    }
}

// Colours are read when a chart is drawn.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawn.forEach((entry) => entry.plot.destroy());
    drawn.clear();
    if (shown) showCharts(shown);
});

function draw(chart, data, step) {
    const figure = frame(chart.id);
    const room = figure.querySelector(".plot");
    room.replaceChildren();
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const em = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const font = `${em * 0.85}px system-ui, sans-serif`;
    const lines = chart.lines.map(([name, label]) => ({
        label,
        stroke: colour(`--${name}`),
        fill: chart.bars ? colour(`--${name}`) : undefined,
        width: chart.bars ? 0 : 1.5,
        paths: chart.bars ? uPlot.paths.bars({ size: [0.85, 60] }) : undefined,
        points: { show: !chart.bars, size: 5, width: 0, fill: colour(`--${name}`), filter: alone },
    }));
    const axis = {
        stroke: colour("--quiet"),
        font,
        grid: { stroke: colour("--faint"), width: 1 },
        ticks: { show: false },
    };
    const size = () => ({ width: Math.max(120, room.clientWidth), height: Math.max(90, room.clientHeight) });
    const entry = { step };
    const plot = new uPlot(
        {
            ...size(),
            legend: { show: false },
            padding: [6, em * 1.4, 0, 0],
            tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
            cursor: { sync: { key: "time" }, drag: { x: false, y: false }, points: { size: 6 } },
            scales: {
                x: { time: true },
                y: { range: (_, __, top) => [0, Math.max((top || 0) * 1.08, chart.least ?? 0) || chart.blank] },
            },
            series: [{}, ...lines],
            axes: [
                {
                    ...axis,
                    values: (_, ticks) => ticks.map((tick) => clock(tick, step)),
                    size: em * 2.2,
                    gap: em * 0.5,
                },
                {
                    ...axis,
                    values: (_, ticks) => ticks.map((tick) => chart.axis(tick)),
                    size: (_, texts) => width(texts, font),
                },
            ],
            hooks: { setCursor: [(self) => legend(chart, entry, self.cursor.idx)] },
        },
        data,
        room,
    );
    new ResizeObserver(() => plot.setSize(size())).observe(room);
    entry.plot = plot;
    return entry;
}

/** Measures between two gaps: they make no line, so they are points. */
function alone(plot, at) {
    const values = plot.data[at];
    const missing = (index) => values[index] === null || values[index] === undefined;
    return [...values.keys()].filter((index) => !missing(index) && missing(index - 1) && missing(index + 1));
}

const clock = (tick, step) => {
    const text = utc(tick * 1000);
    return step >= 3600 ? text.slice(0, 5) : text.slice(6, 11);
};

function width(texts, font) {
    const longest = Math.max(3, ...(texts ?? []).map((text) => text.length));
    return longest * parseFloat(font) * 0.62 + 10;
}

function frame(id) {
    const known = byId(`chart-${id}`);
    if (known) return known;
    const made = element(
        "figure",
        { id: `chart-${id}` },
        element("figcaption", {}),
        element("div", { class: "plot", role: "img" }),
    );
    byId("charts").append(made);
    return made;
}

/**
 * The caption: sums of the whole time, or the values under the pointer. The tiles have the percentiles of the whole time.
 * A chart is a picture; its label has the numbers.
 */
function legend(chart, entry, at) {
    const series = shown.series;
    const step = at === null || at === undefined ? undefined : series[at];
    const told = chart.lines.map(([, label, read]) => {
        const sum = () => series.reduce((all, one) => all + read(one), 0);
        const value = step ? read(step) : chart.sum ? sum() : shown.total.latencyMs?.[label];
        return value === null || value === undefined ? "–" : chart.show(value);
    });
    const keys = chart.lines.map(([name, label], line) => {
        const text = step || chart.sum ? `${label} ${told[line]}` : label;
        return element("span", { class: `key ${name}` }, element("i", {}), element("span", {}, text));
    });
    const figure = frame(chart.id);
    const title = step ? `${utc(step.start, { date: entry.step >= 900 }).slice(0, -3)} UTC` : chart.title;
    fill(figure.querySelector("figcaption"), element("b", {}, title), keys);
    if (!step) {
        const numbers = chart.lines.map(([, label], line) => `${label} ${told[line]}`).join(", ");
        figure.querySelector(".plot").setAttribute("aria-label", `${chart.title} over the time chosen: ${numbers}`);
    }
}
