// Runs, as the SDK's own functions make and read them.

import { runs, tasks } from "@trigger.dev/sdk";
import { use } from "./sdk.mjs";

/** Trigger a task and retrieve the run. */
export async function trigger({ url, key, task, payload, options }) {
  use({ url, key });
  const handle = await tasks.trigger(task, payload, options);
  return { handle, run: await runs.retrieve(handle.id) };
}
