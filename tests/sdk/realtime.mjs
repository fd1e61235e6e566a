// Subscriptions and public tokens, as the SDK's own functions make them.

import { auth, runs, tasks } from "@trigger.dev/sdk";
import { use } from "./sdk.mjs";

/** What a test looks at. */
const shown = ({ id, status, metadata, tags, payload, output, error, finishedAt, isCompleted }) => ({
  id,
  status,
  metadata,
  tags,
  payload,
  output,
  error,
  isCompleted,
  finishedAt: finishedAt ?? null,
});

/** Follow a run to its end. Says each state; an answer of the server that is no feed ends it. */
export async function followRun({ url, key, run, options, count }, say) {
  use({ url, key });
  let seen = 0;
  for await (const state of runs.subscribeToRun(run, options)) {
    say(shown(state));
    seen += 1;
    if (seen === count) break;
  }
  return seen;
}

/** Two readers of one run, which go at their own pace. */
export async function followTwice({ url, key, run }) {
  use({ url, key });
  const read = async () => {
    const states = [];
    for await (const state of runs.subscribeToRun(run)) states.push(shown(state).metadata);
    return states;
  };
  return Promise.all([read(), read()]);
}

/** Follow what has a tag, until so many states were seen. */
export async function followTag({ url, key, tag, options, count }, say) {
  use({ url, key });
  for await (const state of runs.subscribeToRunsWithTag(tag, options)) {
    say(shown(state));
    count -= 1;
    if (count === 0) break;
  }
}

/** Follow a batch, until so many states were seen. */
export async function followBatch({ url, key, batch, count }, say) {
  use({ url, key });
  for await (const state of runs.subscribeToBatch(batch)) {
    say(shown(state));
    count -= 1;
    if (count === 0) break;
  }
}

/** A token that the SDK signs itself. */
export async function createPublicToken({ url, key, options }) {
  use({ url, key });
  return auth.createPublicToken(options);
}

/** A token to trigger once. */
export async function createTriggerPublicToken({ url, key, task, options }) {
  use({ url, key });
  return auth.createTriggerPublicToken(task, options);
}

/** What a token may do, with `withAuth`: each call's answer, or how it failed. */
export async function withToken({ url, token, retrieve = [], trigger, follow }) {
  const tried = async (call) => {
    try {
      return await call();
    } catch (error) {
      return { failed: error.status, body: error.body };
    }
  };
  return auth.withAuth({ baseURL: url, accessToken: token }, async () => {
    const retrieved = [];
    for (const run of retrieve) retrieved.push(await tried(async () => (await runs.retrieve(run)).id));
    const triggered = trigger && (await tried(async () => tasks.trigger(trigger, { by: "token" })));
    const followed = [];
    if (follow) for await (const state of runs.subscribeToRun(follow)) followed.push(shown(state));
    return { retrieved, triggered, followed };
  });
}

/** Trigger a batch of runs of one task. */
export async function triggerBatch({ url, key, task, payloads }) {
  use({ url, key });
  return tasks.batchTrigger(task, payloads.map((payload) => ({ payload })));
}

/** The token that comes with a trigger reads its run, also while the run goes on. */
export async function triggerAndFollow({ url, key, task, options, requestOptions }, say) {
  use({ url, key });
  const handle = await tasks.trigger(task, { rows: 3 }, options, requestOptions);
  say(handle);
  await auth.withAuth({ baseURL: url, accessToken: handle.publicAccessToken }, async () => {
    for await (const state of runs.subscribeToRun(handle.id)) say(shown(state));
  });
}
