// What can be said of the page's files without a browser.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import path from "node:path";
import test from "node:test";
import { gzipSync } from "node:zlib";

import { root } from "./host.mjs";

const folder = path.join(root, "src/admin/page");
const read = (name) => readFileSync(path.join(folder, name));
const served = readdirSync(folder).filter((name) => /\.(html|css|js)$/.test(name));

test("all files together are small", () => {
    const size = served.reduce((sum, name) => sum + gzipSync(read(name), { level: 9 }).length, 0);
    console.log(`# ${size} bytes, compressed`);
    assert.ok(size <= 150 * 1024, `${size} bytes, compressed`);
});

test("every attribute of a record is explained, and none that there is not", async () => {
    const { GROUPS, OUTCOMES } = await import(path.join(folder, "attributes.js"));
    const document = readFileSync(path.join(root, "docs/record.md"), "utf8");
    const sections = document.split("\n## ").slice(1);
    const described = sections.map((section) => [
        section.split("\n")[0],
        [...section.matchAll(/^\| `(\w+)` \| (?:string|number|boolean) /gm)].map((row) => row[1]),
    ]);
    assert.deepEqual(
        Object.entries(GROUPS).map(([title, attributes]) => [title, Object.keys(attributes)]),
        described,
    );
    const outcomes = [...document.matchAll(/^\| `(\w+)` \| (?!string |number |boolean |meaning )[^|]+\|$/gm)].map(
        (row) => row[1],
    );
    assert.deepEqual(Object.keys(OUTCOMES), outcomes);
});

test("what is vendored is what its note says", () => {
    const note = read("VENDORED.md").toString();
    for (const name of ["uplot.js", "uplot.css", "uplot.LICENSE"]) {
        const hash = createHash("sha256").update(read(name)).digest("hex");
        assert.ok(note.includes(`\`${name}\``) && note.includes(hash), `${name} has the hash ${hash}`);
    }
});
