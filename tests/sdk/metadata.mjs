// Metadata, as the manager that runs in a Trigger.dev worker changes it.

import { metadata, runs, tasks } from "@trigger.dev/sdk";
import { runMetadata } from "@trigger.dev/core/v3";
import { client, manager, retry, use } from "./sdk.mjs";

/** Every kind of change, flushed once; what the run then holds, and what the manager believes. */
export async function everyChange({ url, key, run }) {
  const own = manager({ url, key, run, isRoot: true, known: { gone: 1, list: ["a", "b", "a"], nested: { n: 1 } } });
  own.set("status", { state: "working" });
  own.set("$.nested.m", [1, 2]);
  own.increment("n", 2);
  own.increment("n", 0.5);
  own.decrement("n", 1);
  own.append("log", "one");
  own.append("log", "two");
  own.remove("list", "a");
  own.del("gone");
  await own.flush();
  const held = (await client({ url, key }).getRunMetadata(run)).metadata;
  return { held, local: own.current() };
}

/** Changes of a run, its parent and its root in one request. */
export async function family({ url, key, run, parent, root }) {
  const own = manager({ url, key, run });
  own.set("step", 1).set("step", 2);
  own.parent.increment("children", 1).append("seen", run);
  own.root.increment("descendants", 1).decrement("left", 1).set("last", run).update({ whole: true, n: 1 });
  await own.flush();
  const held = {};
  for (const id of [run, parent, root]) held[id] = (await client({ url, key }).getRunMetadata(id)).metadata;
  return held;
}

/** The public functions, with a manager registered as a worker does it. */
export async function functions({ url, key, run }) {
  use({ url, key });
  const own = manager({ url, key, run, isRoot: true });
  runMetadata.setGlobalManager(own);
  metadata.set("progress", 0.25).increment("rows", 10);
  metadata.parent.set("from", "a child without a parent");
  await metadata.flush();
  await own.refresh();
  metadata.replace({ progress: 1 });
  await metadata.flush();
  return { current: own.current(), run: await runs.retrieve(run) };
}

/** Many managers that know nothing of each other count one thing at once. */
export async function count({ url, key, run, managers }) {
  const made = Array.from({ length: managers }, () => manager({ url, key, run, isRoot: true }));
  await Promise.all(
    made.map(async (own) => {
      own.increment("count", 1);
      await own.flush();
    }),
  );
  return (await client({ url, key }).getRunMetadata(run)).metadata;
}

/** What a worker still holds when its run ends. */
export async function lastFlush({ url, key, run, size = 1 }) {
  const own = manager({ url, key, run });
  const nothing = await own.stopAndReturnLastFlush();
  const busy = manager({ url, key, run });
  busy.set("progress", 1).set("when", new Date(0).toISOString()).set("text", "x".repeat(size));
  busy.parent.increment("done", 1);
  busy.root.append("ended", run);
  return { nothing, packet: await busy.stopAndReturnLastFlush() };
}

/** Every write there is, behind a proxy that loses answers. */
export async function writes({ url, key, size }) {
  use({ url, key });
  const api = client({ url, key });
  const { id: run } = await tasks.trigger("t", { n: 1 }, { metadata: { n: 0, list: [] } });
  const child = await api.triggerTask("t", { payload: "1", options: { parentRunId: run, payloadType: "application/json" } });
  for (let n = 0; n < 5; n += 1) {
    const own = manager({ url, key, run: child.id });
    own.increment("n", 1);
    own.append("list", n);
    own.parent.increment("n", 1).append("list", n);
    own.root.increment("roots", 1);
    await own.flush();
  }
  await api.addTags(run, { tags: ["one", "two"] });
  const handle = await tasks.batchTrigger(
    "item",
    Array.from({ length: size }, (_, n) => ({ payload: { n }, options: { metadata: { n } } })),
    undefined,
    { retry },
  );
  await runs.cancel(child.id);
  return { run, child: child.id, batch: handle.batchId };
}
