// The figures again, from the raw records: what the page shows has to be the same.

/** Sums over records; one with `repeated` stands for several requests. */
export function sums(items) {
    const sum = (read) => items.reduce((all, item) => all + read(item), 0);
    const times = (item) => 1 + (item.repeated ?? 0);
    return {
        requests: sum(times),
        errors: sum((item) => (item.success ? 0 : times(item))),
        inputTokens: sum((item) => item.inputTokens ?? 0),
        outputTokens: sum((item) => item.outputTokens ?? 0),
        costNanoUsd: sum((item) => item.costNanoUsd ?? 0),
    };
}

const KEYS = {
    model: (item) => item.modelId ?? "(none)",
    caller: (item) => item.caller ?? (item.callerUid === undefined ? "unknown" : `uid:${item.callerUid}`),
    operation: (item) => item.operation,
    upstream: (item) => item.destinationRegion ?? "(none)",
    kind: (item) => `${item.statusCode} ${item.outcome.replaceAll("_", " ")}`,
};

/** Sums by name. */
export function groups(items, by) {
    const parts = grouped(items, KEYS[by]);
    return new Map([...parts].map(([name, part]) => [name, sums(part)]));
}

function grouped(items, key) {
    const parts = new Map();
    for (const item of items) parts.set(key(item), [...(parts.get(key(item)) ?? []), item]);
    return parts;
}

/** The two values between which a percentile of few values may be said to lie. */
export function percentile(values, part) {
    const sorted = [...values].sort((a, b) => a - b);
    const at = (sorted.length - 1) * part;
    return [sorted[Math.max(0, Math.floor(at) - 1)], sorted[Math.min(sorted.length - 1, Math.ceil(at) + 1)]];
}
