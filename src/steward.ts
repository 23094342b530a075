#!/usr/bin/env node
import { Command, Option } from "commander";
import packageJson from "../package.json" with { type: "json" };
import { useCompiledCode } from "./compiled-code.ts";
import { ConfigError, readClientDefaults, readConfig, type Setting, settings } from "./config.ts";

const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < 22 || (major === 22 && minor < 18)) {
  process.stderr.write(
    `steward needs Node 22.18 or newer; this is ${process.version}. In the repository, npm start and npx steward bring their own.\n`,
  );
  process.exit(2);
}

const stopping = new AbortController();
const defaults = readClientDefaults();
const serve = serveCommand().action(async (_, command: Command) => runServer(command));

if (process.argv[2] === "serve") prepareToServe();
else {
  process.once("SIGINT", () => stopping.abort());
  for (const stream of [process.stdout, process.stderr]) stream.on("error", endQuietly);
}
const { runCli } = await import("./cli/program.ts");
process.exitCode = await runCli(process.argv.slice(2), {
  version: packageJson.version,
  defaults,
  screen: {
    write: (text) => process.stdout.write(text),
    writeError: (text) => process.stderr.write(text),
    colours: process.stdout.isTTY && !defaults.plain,
  },
  signal: stopping.signal,
  serve,
});
// Connections to the server are kept alive: nothing is left to wait for.
if (process.argv[2] !== "serve") process.exit();

function serveCommand(): Command {
  const command = new Command("serve").description("run the control plane");
  for (const setting of settings) command.addOption(optionOf(setting));
  return command;
}

/** Before most of the code is loaded. What is wrong with the command line or the directory is told when it is used. */
function prepareToServe(): void {
  const silent = { writeOut: () => undefined, writeErr: () => undefined };
  try {
    const command = serveCommand()
      .exitOverride()
      .configureOutput(silent)
      .parse(process.argv.slice(3), { from: "user" });
    useCompiledCode(readConfig(flagsOf(command)).stateDir);
  } catch {}
}

async function runServer(command: Command): Promise<void> {
  const { serveUntilStopped } = await import("./serve.ts");
  try {
    await serveUntilStopped(readConfig(flagsOf(command)), packageJson.version);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    process.stderr.write(`steward: ${error.message}\n`);
    process.exit(2);
  }
}

function flagsOf(command: Command): Record<string, string | boolean | undefined> {
  const given = command.opts<Record<string, string | boolean | undefined>>();
  return Object.fromEntries(
    settings.map(({ flag }) => [
      flag,
      given[flag.replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase())],
    ]),
  );
}

function optionOf(setting: Setting): Option {
  const value = setting.placeholder === undefined ? "" : ` <${setting.placeholder}>`;
  const fallback = setting.fallback === undefined ? "" : `; default ${setting.fallback}`;
  const option = new Option(`--${setting.flag}${value}`, `${setting.description} (${setting.variable}${fallback})`);
  return setting.isList
    ? option.argParser((each: string, before?: string) => (before ? `${before},${each}` : each))
    : option;
}

/** The reader of a pipe may leave, as `head` does. */
function endQuietly(error: NodeJS.ErrnoException): void {
  process.exit(error.code === "EPIPE" ? 0 : 1);
}
