// Numbers and times as people read them.

import { element } from "./dom.js";

/** "1,234,567" */
export const count = (number) => Math.round(number).toLocaleString("en-US");

/** "1 record", "2,000 records" */
export const of = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;

/** "950", "12.3k", "4.56M" */
export function short(number) {
    for (const [unit, letter] of [
        [1e9, "G"],
        [1e6, "M"],
        [1e4, "k"],
    ]) {
        const base = letter === "k" ? 1e3 : unit;
        if (number >= unit) return `${Number((number / base).toPrecision(3))}${letter}`;
    }
    return count(number);
}

/** "512 B", "1.5 MiB" */
export function bytes(number) {
    if (number < 1024) return `${number} B`;
    const units = ["KiB", "MiB", "GiB", "TiB"];
    let value = number / 1024;
    let unit = 0;
    while (value >= 1023.95 && unit < 3) {
        value /= 1024;
        unit += 1;
    }
    return `${value.toFixed(1)} ${units[unit]}`;
}

/** "850 ms", "1.24 s", "2 min 5 s"; a dash if it is not known. */
export function milliseconds(number) {
    if (number === undefined || number === null) return "–";
    if (number < 1000) return `${Math.round(number)} ms`;
    if (number < 60_000) return `${Number((number / 1000).toPrecision(3))} s`;
    const seconds = Math.round(number / 1000);
    return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** "12 s", "5 min", "3 h 5 min", "2 d 4 h" */
export function duration(seconds) {
    const two = (large, unit, small, smallUnit) =>
        small ? `${large} ${unit} ${small} ${smallUnit}` : `${large} ${unit}`;
    if (seconds < 60) return `${Math.floor(seconds)} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
    if (seconds < 86_400) return two(Math.floor(seconds / 3600), "h", Math.floor((seconds % 3600) / 60), "min");
    return two(Math.floor(seconds / 86_400), "d", Math.floor((seconds % 86_400) / 3600), "h");
}

/** Dollars of nano-dollars: "$1,234.56"; of little money as many digits as tell it. */
export function dollars(nano) {
    const usd = nano / 1e9;
    if (usd === 0) return "$0";
    if (usd >= 0.995) return `$${usd.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
    return `$${Number(usd.toPrecision(3)).toLocaleString("en-US", { maximumFractionDigits: 9 })}`;
}

/** "12 %", "0.4 %" */
export function percent(part, whole) {
    if (!whole) return "0 %";
    const value = (part / whole) * 100;
    return `${value > 0 && value < 1 ? Math.max(value, 0.1).toFixed(1) : Math.round(value)} %`;
}

/** "11-30 01:46:32" in UTC. `milliseconds` adds those, `date: false` leaves the day out. */
export function utc(time, { date = true, fraction = false } = {}) {
    const text = new Date(time).toISOString();
    return `${date ? `${text.slice(5, 10)} ` : ""}${text.slice(11, fraction ? 23 : 19)}`;
}

/** A time in UTC, with the reader's own on hover. */
export function moment(iso, options) {
    const time = new Date(iso);
    if (Number.isNaN(time.getTime())) return element("span", {}, iso);
    const title = `${time.toISOString()} (UTC); here ${time.toLocaleString()}`;
    return element("time", { datetime: time.toISOString(), title }, utc(time, options));
}

/** "5 min ago" of an RFC 3339 time, with the time itself on hover. */
export function ago(iso) {
    const time = new Date(iso);
    const seconds = Math.max(0, (Date.now() - time.getTime()) / 1000);
    const title = `${time.toISOString()} (UTC); here ${time.toLocaleString()}`;
    return element("time", { datetime: time.toISOString(), title }, `${duration(seconds)} ago`);
}
