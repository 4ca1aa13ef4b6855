// The page in a real browser, over real traffic: its figures against the records, what it does live, and where its
// filters and pages lead.

import assert from "node:assert/strict";
import test, { after, afterEach, before } from "node:test";

import { groups, percentile, sums } from "./figures.mjs";
import { Host, UIDS, browser as launch, eventually, open, picture } from "./host.mjs";
import { fine, ids, number, records, shows, text } from "./reading.mjs";
import { HAIKU, NOVA, OPUS, traffic } from "./traffic.mjs";

let host;
let browser;
let apps;
let sent;

before(async () => {
    [host, browser] = await Promise.all([Host.start(), launch()]);
    apps = {
        billing: await host.app(UIDS.billing),
        search: await host.app(UIDS.search),
        nobody: await host.app(UIDS.nobody),
    };
    sent = await traffic(host, apps);
});

// One user may follow a few streams of events at once.
afterEach(() => Promise.all(browser.contexts().map((context) => context.close())));

after(async () => {
    await browser?.close();
    await host?.stop();
});

const raw = (query) => records(host, query);

test("the figures are those of the records", async () => {
    const page = await open(browser, host.admin);
    const items = await raw();
    const all = sums(items);
    assert.equal(all.requests, sent.length, "every request has its record");
    await shows(page, all.requests);
    assert.equal(number(await text(page, '[data-tile="failed"] dd >> nth=0')), all.errors);
    assert.match(
        await text(page, "#chart-tokens figcaption"),
        new RegExp(
            `in ${all.inputTokens.toLocaleString("en-US")}\\b.*out ${all.outputTokens.toLocaleString("en-US")}\\b`,
            "s",
        ),
    );
    const cost = number(await text(page, '[data-tile="cost"] dd >> nth=0'));
    assert.ok(Math.abs(cost - all.costNanoUsd / 1e9) <= cost * 0.006 + 1e-9, `${cost} of ${all.costNanoUsd}`);
    const usage = await host.json("/v1/dashboard/usage?window=1h&by=model");
    for (const [name, part] of [
        ["p50", 0.5],
        ["p95", 0.95],
        ["p99", 0.99],
    ]) {
        const [below, above] = percentile(
            items.filter((item) => item.attempts > 0 && item.outcome !== "interrupted").map((item) => item.latency),
            part,
        );
        const shown = usage.total.latencyMs[name];
        assert.ok(
            shown >= below * 0.94 - 1 && shown <= above * 1.06 + 1,
            `${name}: ${shown} is not within ${below} and ${above}`,
        );
    }
    for (const by of ["model", "caller", "operation", "upstream"]) {
        await page.click(`#dimensions a:text-is("${by}")`);
        const expected = groups(items, by);
        await eventually(
            `the groups by ${by}`,
            async () => (await page.locator("#usage-table tbody tr").count()) === expected.size,
        );
        for (const [name, group] of expected) {
            const row = page.locator("#usage-table tbody tr").filter({ has: page.getByText(name, { exact: true }) });
            const cell = (column) => row.locator(`[data-column="${column}"]`).innerText().then(number);
            assert.equal(await cell("requests"), group.requests, `${by} ${name}`);
            assert.equal(await cell("errors"), group.errors, `${by} ${name}`);
            assert.equal(await cell("in"), group.inputTokens, `${by} ${name}`);
            assert.equal(await cell("out"), group.outputTokens, `${by} ${name}`);
        }
    }
    const failed = await page.locator("#errors-table table").first().locator("tbody tr").allInnerTexts();
    const kinds = groups(
        items.filter((item) => !item.success),
        "kind",
    );
    const shown = new Map(
        failed.map((row) => row.split("\t")).map(([kind, requests]) => [kind.trim(), number(requests)]),
    );
    assert.deepEqual(shown, new Map([...kinds].map(([kind, group]) => [kind, group.requests])));
    fine(page);
});

test("a request shows at once, in the list and in the figures", async () => {
    const page = await open(browser, host.admin);
    const before = (await raw()).length;
    await eventually("a live page", async () => (await text(page, "#live")) === "live");
    await shows(page, sums(await raw()).requests);
    const id = await apps.search.converse(HAIKU, "anything new?");
    const began = Date.now();
    await page.waitForSelector(`tr[data-request="${id}"]`);
    console.log(`# listed after ${Date.now() - began} ms`);
    assert.equal((await ids(page))[0], id, "the newest is first");
    await shows(page, sums(await raw()).requests);
    console.log(`# counted after ${Date.now() - began} ms`);
    assert.equal((await raw()).length, before + 1);
    fine(page);
});

test("filters stand in the address, and the back button leads back", async () => {
    const page = await open(browser, host.admin);
    const all = sums(await raw()).requests;
    await shows(page, all);
    await page.click(`#usage-table a:text-is("${NOVA}")`);
    const ofNova = await raw(`&modelId=${encodeURIComponent(NOVA)}`);
    await shows(page, sums(ofNova).requests);
    assert.equal(new URL(page.url()).searchParams.get("modelId"), NOVA);
    await eventually(
        "only that model",
        async () => (await page.locator("tr[data-request]").count()) === Math.min(25, ofNova.length),
    );
    const listed = await page.locator("tr[data-request] td:nth-child(3)").allInnerTexts();
    assert.deepEqual([...new Set(listed)], [NOVA]);

    await page.fill("#filter [name=caller]", "billing");
    await page.selectOption("#filter [name=result]", "failed");
    await page.click("#filter button");
    const wanted = ofNova.filter((item) => item.caller === "billing" && !item.success).map((item) => item.requestId);
    assert.ok(wanted.length > 0);
    await eventually("what failed", async () => String(await ids(page)) === String(wanted));
    await page.goBack();
    await eventually(
        "the view before",
        async () => (await page.locator("tr[data-request]").count()) === Math.min(25, ofNova.length),
    );
    await page.goBack();
    await shows(page, all);
    assert.equal(new URL(page.url()).search, "");
    await page.goForward();
    await shows(page, sums(ofNova).requests);

    const second = await open(browser, page.url());
    await shows(second, sums(ofNova).requests);
    await second.click("#chips a");
    await shows(second, all);

    // Who failed, and why: from the table to its requests.
    await second.click('#errors-table a:text-is("429 upstream error")');
    const throttled = (await raw()).filter((item) => item.statusCode === 429).map((item) => item.requestId);
    await eventually("what was throttled", async () => String(await ids(second)) === String(throttled.slice(0, 25)));
    [page, second].forEach(fine);
});

test("a caller without an entry is found by its uid", async () => {
    const page = await open(browser, `${host.admin}/?by=caller`);
    await page.click(`#usage-table a:text-is("uid:${UIDS.nobody}")`);
    const own = await raw(`&callerUid=${UIDS.nobody}`);
    await shows(page, sums(own).requests);
    await eventually(
        "its requests",
        async () => String(await ids(page)) === String(own.slice(0, 25).map((item) => item.requestId)),
    );
});

test("older requests are on further pages", async () => {
    const page = await open(browser, host.admin);
    const all = (await raw()).map((item) => item.requestId);
    assert.ok(all.length > 50);
    const shown = (from) =>
        eventually(`the page from ${from}`, async () => String(await ids(page)) === String(all.slice(from, from + 25)));
    await shown(0);
    await page.click('#pages a:text-is("Older")');
    await shown(25);
    const address = page.url();
    await page.click('#pages a:text-is("Older")');
    await shown(50);
    await page.goBack();
    await shown(25);
    assert.equal(page.url(), address);
    await page.reload();
    await shown(25);
    await page.click('#pages a:text-is("Newest")');
    await shown(0);
    fine(page);
});

test("the daemon goes and comes back", async () => {
    const page = await open(browser, host.admin);
    await eventually("a live page", async () => (await text(page, "#live")) === "live");
    await host.end();
    await eventually("the page's word on it", async () => (await text(page, "#ready")).startsWith("Not connected"));
    await page.screenshot({ path: picture("gone") });
    await host.run();
    await eventually("a live page again", async () => (await text(page, "#live")) === "live");
    await eventually("its verdict", async () => (await text(page, "#ready")).startsWith("Ready"));
    await apps.billing.converse(OPUS, "after the restart");
    await shows(page, sums(await raw()).requests);
    fine(page);
});

test("a page without a stream asks by itself", async () => {
    // One user may have so many.
    const pages = await Promise.all(Array.from({ length: 4 }, () => open(browser, host.admin)));
    for (const page of pages) await eventually("a live page", async () => (await text(page, "#live")) === "live");
    const late = await open(browser, host.admin);
    await eventually("a page that is not live", async () => (await text(late, "#live")).startsWith("not live"));
    await shows(late, sums(await raw()).requests);
    const id = await apps.billing.converse(HAIKU, "is anybody there?");
    await late.waitForSelector(`tr[data-request="${id}"]`);
    await pages[0].context().close();
    await eventually("a place among the streams", async () => (await text(late, "#live")) === "live");
    fine(late);
});
