// Runs, as the SDK's own functions make, read and change them.

import { batch, idempotencyKeys, runs, tasks } from "@trigger.dev/sdk";
import { client, outcome, retry, use } from "./sdk.mjs";

/** Trigger a task and retrieve the run. */
export async function trigger({ url, key, task, payload, options }) {
  use({ url, key });
  const handle = await tasks.trigger(task, payload, options);
  return { handle, run: await runs.retrieve(handle.id) };
}

/** Every kind of payload, each as it comes back. */
export async function payloads({ url, key }) {
  use({ url, key });
  const given = [
    { when: new Date(0), seen: new Set([1]), nothing: undefined, big: [1, "ü", null] },
    "plain text",
    "{\"json\": 1}",
    7,
    null,
    undefined,
    [],
  ];
  const seen = [];
  for (const payload of given) {
    const { id } = await tasks.trigger("t", payload);
    const run = await runs.retrieve(id);
    seen.push("payload" in run && run.payload !== undefined ? run.payload : "absent");
  }
  return seen;
}

/** Trigger twice under one idempotency key, and retrieve what came of it. */
export async function once({ url, key, name, ttl }) {
  use({ url, key });
  const idempotencyKey = await idempotencyKeys.create(name, { scope: "global" });
  const options = { idempotencyKey, idempotencyKeyTTL: ttl };
  const first = await tasks.trigger("t", { n: 1 }, { ...options, metadata: { first: true } });
  const second = await tasks.trigger("t", { n: 2 }, { ...options, metadata: { second: true } });
  return { first, second, run: await runs.retrieve(second.id), hash: idempotencyKey };
}

/** Options that mean something only to a server that executes tasks. */
export async function ignored({ url, key }) {
  use({ url, key });
  const { id } = await tasks.trigger("t", 1, {
    queue: "q",
    concurrencyKey: "c",
    delay: "1h",
    ttl: "10m",
    maxAttempts: 3,
    maxDuration: 60,
    machine: "small-1x",
    priority: 10,
    region: "eu",
    debounce: { key: "d", delay: "1s" },
    version: "20250101.1",
    tags: "one",
  });
  return runs.retrieve(id);
}

/** Walk through the list of runs, page by page and by itself, and back again. */
export async function list({ url, key, limit }) {
  use({ url, key });
  const itself = [];
  for await (const run of runs.list({ limit })) itself.push(run.id);
  let page = await runs.list({ limit });
  const pages = [page.data.map((run) => run.id)];
  while (page.hasNextPage()) {
    page = await page.getNextPage();
    pages.push(page.data.map((run) => run.id));
  }
  const back = [page.data.map((run) => run.id)];
  while (page.hasPreviousPage()) {
    page = await page.getPreviousPage();
    back.push(page.data.map((run) => run.id));
  }
  const forth = [page.data.map((run) => run.id)];
  while (page.hasNextPage()) {
    page = await page.getNextPage();
    forth.push(page.data.map((run) => run.id));
  }
  const queued = [];
  for await (const run of runs.list({ status: ["QUEUED"], taskIdentifier: ["a", "b"] })) queued.push(run);
  return { itself, pages, back, forth, queued: queued.map((run) => run.id) };
}

/** Wait for the end of a run. */
export async function poll({ url, key, run }, say) {
  use({ url, key });
  say("polling");
  return runs.poll(run, { pollIntervalMs: 20 });
}

/** Cancel a run twice, and retrieve it. */
export async function cancel({ url, key, run }) {
  use({ url, key });
  const answers = [await runs.cancel(run), await runs.cancel(run)];
  return { answers, run: await runs.retrieve(run) };
}

/** Tag a run, and retrieve it. */
export async function tag({ url, key, run, lists }) {
  use({ url, key });
  const answers = [];
  for (const tags of lists) answers.push(await outcome(() => client({ url, key }).addTags(run, { tags })));
  return { answers, run: await runs.retrieve(run) };
}

/** Trigger a batch, and retrieve it. */
export async function batchTrigger({ url, key, task, items, options }) {
  use({ url, key });
  const handle = await tasks.batchTrigger(task, items, options, { retry });
  return { handle, batch: await batch.retrieve(handle.batchId) };
}

/** Trigger a batch of several tasks. */
export async function batchById({ url, key, items }) {
  use({ url, key });
  const handle = await batch.trigger(items, undefined, { retry });
  return { handle, batch: await batch.retrieve(handle.batchId) };
}

/** Trigger a batch in one request, as older releases do. */
export async function oldBatch({ url, key, items }) {
  const handle = await client({ url, key }).batchTriggerV3({ items });
  return { handle, batch: await client({ url, key }).retrieveBatch(handle.id) };
}

/** What there is no such thing of, and what is not done here. */
export async function refusals({ url, key, run }) {
  use({ url, key });
  const given = {
    "an unknown run": () => runs.retrieve("run_absent"),
    "cancelling an unknown run": () => runs.cancel("run_absent"),
    "an unknown batch": () => batch.retrieve("batch_absent"),
    "an unknown status": () => runs.list({ status: ["SLEEPING"] }),
    "too much metadata": () => tasks.trigger("t", 1, { metadata: { text: "x".repeat(5000) } }),
    "too many tags": () => tasks.trigger("t", 1, { tags: Array.from({ length: 11 }, (_, n) => `t${n}`) }),
    "a large payload": () => tasks.trigger("t", "x".repeat(140_000)),
    replay: () => runs.replay(run),
    reschedule: () => runs.reschedule(run, { delay: "1h" }),
    "a batch with a wrong item": () =>
      tasks.batchTrigger(
        "t",
        [{ payload: 1 }, { payload: 2, options: { metadata: { text: "x".repeat(5000) } } }],
        undefined,
        { retry },
      ),
  };
  const seen = {};
  for (const [name, call] of Object.entries(given)) seen[name] = await outcome(call);
  return seen;
}
