/**
 * Runs the Connect conformance suite against one of our listeners: `run.ts RUNNER connect|grpc`, RUNNER being the program connectconformance.
 * Its judgement stands but for one thing: our errors say why, with details where the suite expects none, and are no failure for that.
 */
import { execa } from "execa";

const [runner = "", listener = ""] = process.argv.slice(2);
const here = import.meta.dirname;

// What is known to fail, and why.
const knownFailing: Record<string, readonly string[]> = {
  connect: [],
  // grpc-js does not look at the flag of a message when the call has no encoding.
  grpc: ["gRPC Unexpected Requests/**/unexpected-compressed-message"],
};

/** Complaints about the details that our errors have, one line each; anything else is a failure. */
const isAboutDetails = [
  /^\s*;?\s*actual error contain [12] details; expecting 0$/,
  /^\s*;?\s*connect error JSON: details\[\d+\]: could not check debug data because message type "google\.rpc\.\w+" could not be resolved: proto:\s+not found$/,
  /^\s*;?\s*$/,
];

const known = (knownFailing[listener] ?? []).flatMap((pattern) => ["--known-failing", pattern]);
const options = ["--mode", "server", "--conf", `${here}/${listener}.yaml`, "--max-servers", "1", ...known];
const { all, exitCode } = await execa(runner, [...options, "--", process.execPath, `${here}/server.ts`, listener], {
  all: true,
  reject: false,
  timeout: 4 * 60_000,
});
const output = all ?? "";
const failures = output
  .split(/^FAILED: /m)
  .slice(1)
  .map((text) => text.split(/^(?:INFO|Total cases|Another|passed)/m)[0] ?? "");
const real = failures.filter((text) =>
  text
    .split("\n")
    .slice(1)
    .some((line) => !isAboutDetails.some((each) => each.test(line))),
);
const [, passed, failed] = /^(\d+) passed, (\d+) failed/m.exec(output) ?? [];
for (const each of real) say(`FAILED: ${each}`);
if (passed === undefined) say(output);
say(
  `conformance of the ${listener} listener: ${passed} as expected, ${failures.length - real.length} with more details, ${real.length} failed`,
);
const isWhole = passed !== undefined && Number(failed) === failures.length && !/could not be run/.test(output);
process.exitCode = isWhole && real.length === 0 && (exitCode === 0 || failures.length > 0) ? 0 : 1;

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
