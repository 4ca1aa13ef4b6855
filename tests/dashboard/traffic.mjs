// What the apps of a host ask for: answers, streams, refusals, errors, and names that somebody has chosen with care.

export const HAIKU = "anthropic.claude-3-haiku-20240307-v1:0";
export const OPUS = "anthropic.claude-opus-4-1-20250805-v1:0";
export const NOVA = "amazon.nova-lite-v1:0";
const DENIED = "deepseek.r1-v1:0";
const EMBEDDINGS = "mistral.mistral-7b-instruct-v0:2";

/** Each of these would do something if it were taken for markup, for an address or for code. */
export const HOSTILE = [
    '<img src=x onerror="window.owned=1">',
    '"><script>window.owned=2</script>',
    "javascript:window.owned=3",
    "{{constructor.constructor('window.owned=4')()}}",
    "</title></textarea><svg onload=window.owned=5>",
    "\u202egnp.exe $(touch /tmp/owned)",
];
export const SCRIPT = "<script>window.owned=6</script><img src=x onerror=window.owned=7>";

/** Makes the traffic, and returns the ids of its requests in order. */
export async function traffic(host, { billing, search, nobody }) {
    const sent = [];
    const many = async (times, ask) => {
        for (let time = 0; time < times; time += 1) sent.push(await ask(time));
    };
    await many(24, (time) => billing.converse(HAIKU, `summarise invoice ${time} with think ${(time * 7) % 60}`));
    await many(12, () => search.converse(NOVA, "find what I mean", "converse-stream"));
    await many(9, () => search.converse(OPUS, "a profile is needed for this"));
    await many(5, () => nobody.converse(EMBEDDINGS, "who am I?"));
    await many(4, () => nobody.converse(DENIED, "let me in"));
    await host.fault({ times: 6, model: NOVA, effect: { kind: "throttle" } });
    await many(9, () => billing.converse(NOVA, "again and again"));
    const error = { kind: "error", status: 500, error_type: "InternalServerException", message: SCRIPT };
    await host.fault({ times: 2, model: HAIKU, effect: error });
    await many(2, () => search.converse(HAIKU, "break"));
    for (const name of HOSTILE) sent.push(await nobody.converse(name, "mind the name"));
    sent.push(await nobody.converse(HAIKU, "mind the headers", "converse", { "x-session": HOSTILE[0] }));
    return sent;
}
