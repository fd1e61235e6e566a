// Plays the scenarios of the files beside it. Each line of standard input asks for one: {file, name, arguments}.
// Each line of standard output is {said} while it plays, then {done} or {failed}.

import { createInterface } from "node:readline";

console.log = console.info = console.debug = console.error; // Standard output is for answers.

const answer = (line) => process.stdout.write(JSON.stringify(line) + "\n");

/** All of an error that a caller of the SDK may read. */
function told(error) {
  const { name, message, status, code, param, type, body } = error ?? {};
  return { name, message: message ?? String(error), status, code, param, type, body, stack: error?.stack };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { file, name, arguments: given } = JSON.parse(line);
  try {
    const scenario = (await import(`./${file}`))[name];
    if (!scenario) throw new Error(`${file} has no scenario ${name}`);
    const done = await scenario(given, (said) => answer({ said }));
    answer({ done: done ?? null });
  } catch (error) {
    answer({ failed: told(error) });
  }
}
