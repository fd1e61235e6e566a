// The SDK and its client, pointed at a server. Retries wait milliseconds, and there are as many as by default.

import { configure } from "@trigger.dev/sdk";
import { ApiClient } from "@trigger.dev/core/v3";
import { StandardMetadataManager } from "@trigger.dev/core/v3/workers";

export const retry = { maxAttempts: 5, minTimeoutInMs: 1, maxTimeoutInMs: 5, factor: 1, randomize: false };

/** Point the functions of the SDK at a server. */
export function use({ url, key }) {
  configure({ baseURL: url, accessToken: key ?? "none", requestOptions: { retry } });
}

/** The client below those functions. */
export function client({ url, key }) {
  return new ApiClient(url, key ?? "none", undefined, { retry });
}

/** A metadata manager of a run, as a worker has it. */
export function manager({ url, key, run, isRoot = false, known }) {
  const made = new StandardMetadataManager(client({ url, key }));
  made.runId = run;
  made.runIdIsRoot = isRoot;
  if (known) made.enterWithMetadata(known);
  return made;
}

/** What a call does, or the error it raises as its caller reads it. */
export async function outcome(call) {
  try {
    return { done: await call() };
  } catch (error) {
    const { name, message, status, body } = error;
    return { name, message, status, body, cause: error.cause?.message };
  }
}
