import { Command } from "commander";
import { expect, test } from "vitest";
import { runCli } from "../../src/cli/program.ts";
import { TestScreen } from "./screen.ts";

/** Runs a command line where nobody serves. */
async function run(...args: readonly string[]): Promise<{ code: number; out: string; err: string }> {
  const screen = new TestScreen();
  const code = await runCli(args, {
    version: "1.2.3",
    defaults: { address: "127.0.0.1:1", token: "t", stateDirs: [], plain: true },
    screen,
    signal: new AbortController().signal,
    serve: new Command("serve").option("--state-dir <DIR>", "where"),
  });
  return { code, out: screen.out, err: screen.error };
}

test.each([
  [["frob"], 2, "unknown command 'frob'"],
  [[], 2, "Usage: steward"],
  [["get"], 2, "Usage: steward get"],
  [["apply"], 2, "required option '-f, --filename <file>'"],
  [["apply", "-f", "/no/such/file"], 2, "cannot read /no/such/file"],
  [["describe"], 2, "missing required argument 'name'"],
  [["get", "services", "-o", "xml"], 2, '-o is one of table, json, yaml, name, not "xml"'],
  [["events", "-o", "name"], 2, '-o is one of table, json, yaml, not "name"'],
  [["events", "--since", "yesterday"], 2, "a cursor is REVISION or STORE_UID:REVISION"],
  [["rollback", "one"], 2, "required option '--to <revision>'"],
  [["rollback", "one", "--to", "first"], 2, '--to is a revision from steward history, not "first"'],
  [["stop", "one", "--timeout", "soon"], 2, "a duration is a number with ms, s, m, h or d"],
  [["logs", "one", "--tail", "-1"], 2, "expected a whole number"],
  [["logs", "one", "--stream", "stdin"], 2, "--stream is stdout or stderr"],
  [["--protocol", "smoke", "whoami"], 2, "--protocol is connect or grpc"],
  [["--address", "ftp://h", "whoami"], 2, "the address is HOST:PORT, a URL or unix:/PATH"],
  [["--token-file", "/no/such/file", "whoami"], 2, "cannot read the token file /no/such/file"],
  [["whoami"], 6, "Tried http://127.0.0.1:1"],
  [["--protocol", "grpc", "health"], 6, "Is the server running?"],
  [["completion", "tcsh"], 2, "bash, zsh and fish"],
  [["serve", "--no-such"], 2, "unknown option '--no-such'"],
])("refuses %j with exit code %i and says why on standard error alone", async (args, code, why) => {
  const refused = await run(...args);

  expect(refused).toMatchObject({ code, out: "" });
  expect(refused.err).toContain(why);
});

test.each([
  ["--help"],
  ["get", "--help"],
  ["apply", "--help"],
  ["token", "issue", "--help"],
  ["serve", "--help"],
  ["help", "apply"],
])("explains %s %s %s on standard output", async (...args) => {
  const { code, out, err } = await run(...args);

  expect({ code, err }).toEqual({ code: 0, err: "" });
  expect(out).toMatch(/^Usage: steward/);
});

test("needs no server to say its version", async () => {
  expect(await run("version")).toEqual({ code: 0, out: "steward 1.2.3\n", err: "" });
  expect(await run("--version")).toEqual({ code: 0, out: "1.2.3\n", err: "" });
});

test("completes what a nested command takes, also by its other name, in every shell", async () => {
  const [bash, zsh, fish] = await Promise.all(["bash", "zsh", "fish"].map((shell) => run("completion", shell)));

  for (const line of [
    '"get") candidates="services routes"',
    '"get service") candidates="--output --filter --order-by $(steward get services -o name 2>/dev/null)"',
    '"token rotate") candidates="--overlap --output"',
    '"serve") candidates="--state-dir"',
  ])
    expect(bash?.out).toContain(line);
  expect(zsh?.out).toBe(`#compdef steward\nautoload -U +X bashcompinit && bashcompinit\n${bash?.out}`);
  expect(fish?.out).toContain("complete -c steward -f -n '__fish_use_subcommand' -a 'serve apply get");
  expect(fish?.out).toContain(
    "complete -c steward -n '__fish_seen_subcommand_from token; and __fish_seen_subcommand_from issue' -l scope",
  );
});
