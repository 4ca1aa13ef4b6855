// What a page shows, and what the daemon says itself.

import assert from "node:assert/strict";

import { eventually } from "./host.mjs";

/** The raw records of the last hour. */
export const records = async (host, query = "") =>
    (await host.json(`/v1/dashboard/requests?timeRange=1h&limit=1000${query}`)).requests;

export const text = (page, selector) => page.locator(selector).innerText();

/** The ids of the requests that are listed. */
export const ids = (page) =>
    page.locator("tr[data-request]").evaluateAll((rows) => rows.map((row) => row.dataset.request));

export const number = (shown) => Number(shown.replaceAll(",", "").match(/[\d.]+/)[0]);

/** Nothing has happened that must never happen. */
export const fine = (page) => assert.deepEqual(page.trouble, []);

/** Waits for the page to show so many requests, which it does once the figures have all of them. */
export async function shows(page, count) {
    const first = page.locator('[data-tile="requests"] dd').first();
    await eventually(`a page that shows ${count} requests`, async () => {
        const shown = await first.innerText({ timeout: 5000 }).catch(() => "0");
        return number(shown) === count;
    });
}
