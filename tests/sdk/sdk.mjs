// The SDK and its client, pointed at a server. Retries wait milliseconds, and there are as many as by default.

import { configure } from "@trigger.dev/sdk";
import { ApiClient } from "@trigger.dev/core/v3";

const retry = { maxAttempts: 5, minTimeoutInMs: 1, maxTimeoutInMs: 5, factor: 1, randomize: false };

/** Point the functions of the SDK at a server. */
export function use({ url, key }) {
  configure({ baseURL: url, accessToken: key ?? "none", requestOptions: { retry } });
}

/** The client below those functions. */
export function client({ url, key }) {
  return new ApiClient(url, key ?? "none", undefined, { retry });
}
