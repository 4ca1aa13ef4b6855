// How the page looks and who can use it: light, dark, narrow, very wide and empty; by keyboard; by the rules of
// WCAG 2.2 AA.

import assert from "node:assert/strict";
import test, { after, afterEach, before } from "node:test";

import axe from "axe-core";

import { Host, UIDS, browser as launch, eventually, open, picture } from "./host.mjs";
import { traffic } from "./traffic.mjs";

let host;
let empty;
let browser;

before(async () => {
    [host, empty, browser] = await Promise.all([Host.start(), Host.start({ prices: false }), launch()]);
    const app = (uid) => host.app(UIDS[uid]);
    await traffic(host, { billing: await app("billing"), search: await app("search"), nobody: await app("nobody") });
});

// One user may follow a few streams of events at once.
afterEach(() => Promise.all(browser.contexts().map((context) => context.close())));

after(async () => {
    await browser?.close();
    await Promise.all([host?.stop(), empty?.stop()]);
});

const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

/** What axe objects to, in words. */
async function objections(page) {
    await page.evaluate(axe.source);
    const { violations } = await page.evaluate(
        (values) => window.axe.run(document, { runOnly: { type: "tag", values } }),
        RULES,
    );
    return violations.map(
        ({ id, help, nodes }) =>
            `${id}: ${help}: ${nodes.map((node) => `${node.html} (${node.failureSummary})`).join("; ")}`,
    );
}

/** The page, once all of it has been drawn. */
async function drawn(url, options) {
    const page = await open(browser, url, { reducedMotion: "reduce", ...options });
    await eventually("a live page", async () => (await page.locator("#live").innerText()) === "live");
    await page.waitForSelector("#chart-cost canvas");
    await page.waitForSelector("#models-table table, #models-table .empty");
    await page.waitForSelector("#chain dl");
    await page.waitForSelector("#requests-table table, #requests-table .empty");
    await page.waitForSelector("#usage-table table, #usage-table .empty");
    return page;
}

const SIZES = {
    light: { colorScheme: "light" },
    dark: { colorScheme: "dark" },
    narrow: { colorScheme: "light", viewport: { width: 360, height: 740 } },
    "narrow-dark": { colorScheme: "dark", viewport: { width: 360, height: 740 } },
    "4k": { colorScheme: "dark", viewport: { width: 3840, height: 2160 } },
};

for (const [name, options] of Object.entries(SIZES)) {
    test(`${name}: nothing to object to, and nothing beside the screen`, async () => {
        const page = await drawn(host.admin, options);
        assert.deepEqual(await objections(page), []);
        const { scroll, client } = await page.evaluate(() => ({
            scroll: document.documentElement.scrollWidth,
            client: document.documentElement.clientWidth,
        }));
        assert.ok(scroll <= client, `${scroll} px wide on a screen of ${client} px`);
        await page.screenshot({ path: picture(name), fullPage: name.startsWith("narrow") });
        await page.locator("tr[data-request] a").first().click();
        await page.waitForSelector("#record[open] [data-attribute=requestId]");
        assert.deepEqual(await objections(page), []);
        assert.deepEqual(page.trouble, []);
    });
}

for (const colorScheme of ["light", "dark"]) {
    test(`empty, ${colorScheme}: every panel says what to do`, async () => {
        const page = await drawn(empty.admin, { colorScheme });
        assert.deepEqual(await objections(page), []);
        const shown = await page.locator("main").innerText();
        for (const sentence of [
            /No requests in the last hour\. Look at 24 h, or send a first one/,
            /No records in this time\. A request appears here as soon as it has ended\./,
            /none: records stay on this host\. audit\.table copies them to DynamoDB/,
        ]) {
            assert.match(shown, sentence);
        }
        await page.screenshot({ path: picture(colorScheme === "light" ? "empty" : "empty-dark") });
    });
}

test("without prices the page says which key is missing", async () => {
    const app = await empty.app(UIDS.billing);
    await app.converse("amazon.nova-lite-v1:0", "what will it cost?");
    const page = await drawn(empty.admin);
    await page.waitForSelector('[data-tile="cost"] >> text=limits.prices_file');
    assert.equal(await page.locator('[data-tile="cost"] dd').first().innerText(), "–");
});

test("the keyboard reaches and opens a record, and comes back", async () => {
    const page = await drawn(host.admin);
    const focused = () => page.evaluate(() => document.activeElement.closest("tr[data-request]")?.dataset.request);
    const visible = () => page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== "none");
    for (let presses = 0; !(await focused()); presses += 1) {
        assert.ok(presses < 120, "no request is reached by the tab key");
        await page.keyboard.press("Tab");
        assert.ok(
            await visible(),
            `the focus is seen on ${await page.evaluate(() => document.activeElement.outerHTML)}`,
        );
    }
    const request = await focused();
    await page.keyboard.press("Enter");
    await page.waitForSelector(`#record[open] >> text=${request}`);
    const inside = () =>
        page.evaluate(
            () => document.activeElement === document.body || Boolean(document.activeElement.closest("dialog")),
        );
    for (let presses = 0; presses < 8; presses += 1) {
        await page.keyboard.press("Tab");
        assert.ok(await inside(), "the focus stays in the record");
    }
    await page.keyboard.press("Escape");
    await eventually("the focus where it was", async () => (await focused()) === request);
    assert.equal(await page.locator("#record[open]").count(), 0);
    // Past everything at once.
    await page.reload();
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "requests");
});

test("times are UTC and carry the local time", async () => {
    const page = await drawn(host.admin, { timezoneId: "America/New_York" });
    const time = page.locator("tr[data-request] time").first();
    const iso = await time.getAttribute("datetime");
    assert.equal(await time.innerText(), iso.slice(11, 23));
    const local = await page.evaluate((moment) => new Date(moment).toLocaleString(), iso);
    assert.equal(await time.getAttribute("title"), `${iso} (UTC); here ${local}`);
});
