import { Command, CommanderError, Option } from "commander";
import { applyManifest } from "./apply.ts";
import { parseCount, parseDuration, parseFormat, parsePast, type Session } from "./command.ts";
import { completionScript } from "./completion.ts";
import { addressOf, type CliDefaults, connect, type GlobalOptions } from "./context.ts";
import { showEvents } from "./events.ts";
import { explainService } from "./explain.ts";
import { exitCodeOf, exitCodes, explain, UsageError } from "./failure.ts";
import { parseRevision, rollBack, showHistory } from "./history.ts";
import { showLogs } from "./logs.ts";
import type { Screen } from "./print.ts";
import { getRoutes } from "./routes.ts";
import { checkHealth, whoAmI } from "./server.ts";
import {
  deleteService,
  describeService,
  getServices,
  resetServices,
  signalService,
  stopAll,
  wishServices,
} from "./services.ts";
import { issueToken, listTokens, revokeTokens, rotateToken } from "./tokens.ts";

export interface CliOptions {
  readonly version: string;
  readonly defaults: CliDefaults;
  readonly screen: Screen;
  /** Aborts on Ctrl-C. */
  readonly signal: AbortSignal;
  /** `steward serve`, which is no client. */
  readonly serve: Command;
}

/** Runs one command line and returns its exit code. */
export async function runCli(args: readonly string[], options: CliOptions): Promise<number> {
  const program = createProgram(options);
  try {
    await program.parseAsync([...args], { from: "user" });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : exitCodes.usage;
    const failures: readonly unknown[] = error instanceof AggregateError ? error.errors : [error];
    for (const each of failures)
      options.screen.writeError(`steward: ${explain(each, () => addressOf(program.opts(), options.defaults))}\n`);
    return exitCodeOf(error);
  }
}

function createProgram(options: CliOptions): Command {
  const { screen } = options;
  const program = new Command("steward")
    .description("Register a service and it runs: supervised, routed and watched.")
    .option(
      "--address <url>",
      "the server: HOST:PORT, a URL or unix:/PATH (STEWARD_ADDRESS; default: the local one, else http://127.0.0.1:7700)",
    )
    .option("--token <secret>", "a token; seen by other users in the process list, so prefer the next (STEWARD_TOKEN)")
    .option("--token-file <file>", "a file that holds the token; the local admin token is found by itself")
    .option("--ca-file <file>", "who may have signed the server's certificate; default: the authorities of the system")
    .option("--cert-file <file>", "our certificate, for a server that asks for one")
    .option("--key-file <file>", "its private key")
    .option("--protocol <name>", "connect or grpc", parseProtocol, "connect")
    .version(options.version, "-V, --version", "print the version of this program")
    .exitOverride()
    .configureOutput({ writeOut: (text) => screen.write(text), writeErr: (text) => screen.writeError(text) })
    .showHelpAfterError("(--help explains)")
    .addHelpText("after", exitCodeHelp);
  program.addCommand(options.serve.copyInheritedSettings(program));
  addServiceCommands(program, options);
  addWatchCommands(program, options);
  addTokenCommands(program, options);
  addServerCommands(program, options);
  return program;
}

function addServiceCommands(program: Command, options: CliOptions): void {
  const session = () => open(program, options);
  program
    .command("apply")
    .description("make a set of services be as a YAML or JSON file says, in one transaction")
    .requiredOption("-f, --filename <file>", "the file; - for standard input")
    .option("--plan", "only show what would be done, field by field")
    .option("--prune", "delete services of the file's set that it does not list")
    .option("-o, --output <format>", "table, json or yaml", parseFormat("table", "json", "yaml"), "table")
    .option("--wait", "wait until everything is ready")
    .addOption(timeout())
    .addHelpText("after", applyHelp)
    .action((given) => applyManifest(session(), given));
  const get = program.command("get").description("list services or routes");
  get
    .command("services")
    .alias("service")
    .argument("[name...]", "only these")
    .description("list services")
    .option("-o, --output <format>", "table, json, yaml or name", parseFormat("table", "json", "yaml", "name"), "table")
    .option("--filter <filter>", 'such as: kind = managed AND labels.team = "data"')
    .option(
      "--order-by <fields>",
      "name, create_time, update_time or state, with or without desc; such as: state, create_time desc",
    )
    .action((names, given) => getServices(session(), names, given));
  get
    .command("routes")
    .description("list routes")
    .option("-o, --output <format>", "table, json, yaml or name", parseFormat("table", "json", "yaml", "name"), "table")
    .action((given) => getRoutes(session(), given));
  program
    .command("describe")
    .argument("<name>")
    .description("show everything about a service, with its last events")
    .action((name) => describeService(session(), name));
  program
    .command("explain")
    .argument("<name>")
    .description("tell why a service is not running, not ready or not routed")
    .option("-o, --output <format>", "table, json or yaml", parseFormat("table", "json", "yaml"), "table")
    .action((name, given) => explainService(session(), name, given));
  addHistoryCommands(program, options);
  program
    .command("delete")
    .argument("<name>")
    .description("delete a service")
    .option("--force", "stop it first if it runs")
    .option("--if-exists", "succeed if there is no such service")
    .option("--wait", "wait until it is gone")
    .addOption(timeout())
    .action((name, given) => deleteService(session(), name, given));
  for (const verb of ["start", "restart"] as const) {
    program
      .command(verb)
      .argument("<names...>")
      .description(`${verb} managed services`)
      .option("--wait", "wait until they are ready")
      .addOption(timeout())
      .action((names, given) => wishServices(session(), verb, names, given));
  }
  program
    .command("stop")
    .argument("[names...]")
    .description("stop managed services; they stay registered")
    .option("--all", "all that are wished running; those which depend on others end first")
    .option("--filter <filter>", "with --all: only these, such as: labels.team = data")
    .option("--wait", "wait until they have stopped")
    .addOption(timeout())
    .action((names: string[], given) => {
      if (names.length > 0 === (given.all === true)) throw new UsageError("stop takes names, or --all");
      return given.all === true ? stopAll(session(), given) : wishServices(session(), "stop", names, given);
    });
  program
    .command("reset")
    .argument("<names...>")
    .description("forget the failures of managed services: what gave up or backs off is started at once")
    .action((names) => resetServices(session(), names));
  program
    .command("signal")
    .argument("<name>")
    .argument("<signal>", "such as HUP or SIGUSR1")
    .description("send a signal to the process group of a managed service")
    .action((name, signal) => signalService(session(), name, signal));
}

function addHistoryCommands(program: Command, options: CliOptions): void {
  const session = () => open(program, options);
  program
    .command("history")
    .argument("<name>")
    .description("list the specs that a service had: when, by whom, and what was changed")
    .option("-o, --output <format>", "table, json or yaml", parseFormat("table", "json", "yaml"), "table")
    .action((name, given) => showHistory(session(), name, given));
  program
    .command("rollback")
    .argument("<name>")
    .description("give a service a spec that it had; its api_token stays as it is")
    .requiredOption("--to <revision>", "which, from steward history", parseRevision)
    .option("--plan", "only show what would be done, field by field")
    .option("-o, --output <format>", "table, json or yaml", parseFormat("table", "json", "yaml"), "table")
    .option("--wait", "wait until it is ready")
    .addOption(timeout())
    .action((name, given) => rollBack(session(), name, given));
}

function addWatchCommands(program: Command, options: CliOptions): void {
  const session = () => open(program, options);
  program
    .command("logs")
    .argument("<name>")
    .description("show what a service wrote; its stderr goes to stderr")
    .option("-f, --follow", "go on with what is written from now on, over reconnects without gap or duplicate")
    .option("--tail <lines>", "begin with the last so many lines of each stream", parseCount)
    .option("--since <time>", "begin with what was written since a time, or for so long: 15m", (text) =>
      parsePast(text),
    )
    .option("--timestamps", "show when each line was written")
    .option("--stream <stream>", "only stdout or stderr", parseStream)
    .action((name, given) => showLogs(session(), name, given));
  program
    .command("events")
    .argument("[name]", "only of this service")
    .description("show what happened")
    .option("-f, --follow", "go on with what happens from now on, over reconnects without gap or duplicate")
    .option("--since <cursor>", "only after this revision: REVISION or STORE_UID:REVISION")
    .option("--tail <count>", "begin with the last so many events", parseCount, 20)
    .option("--filter <filter>", "such as: type = instance_exited")
    .option(
      "-o, --output <format>",
      "table, json (with -f: one object a line) or yaml",
      parseFormat("table", "json", "yaml"),
      "table",
    )
    .action((name, given) => showEvents(session(), name, given));
}

function addTokenCommands(program: Command, options: CliOptions): void {
  const session = () => open(program, options);
  const token = program.command("token").description("issue, list, rotate and revoke tokens");
  token
    .command("issue")
    .argument("[service]", "whose token; none: an operator's")
    .description("issue a token and print its secret")
    .option("--scope <scope...>", "what it may do at most, such as read:services; default: all that its owner may", [])
    .option("--note <text>", "what it is for")
    .option("--ttl <duration>", "how long it works; default: for ever", parseDuration)
    .option(
      "-o, --output <format>",
      "table (the secret alone), json or yaml",
      parseFormat("table", "json", "yaml"),
      "table",
    )
    .action((service, given) => issueToken(session(), service, given));
  token
    .command("list")
    .argument("[service]", "only of this service")
    .description("list tokens, never their secrets")
    .option("--all", "also those that ended")
    .option("-o, --output <format>", "table, json, yaml or name", parseFormat("table", "json", "yaml", "name"), "table")
    .action((service, given) => listTokens(session(), service, given));
  token
    .command("rotate")
    .argument("<id>")
    .description("issue a successor and let the old token work for an overlap")
    .option("--overlap <duration>", "how long the old token goes on working (default: 24h)", parseDuration)
    .option(
      "-o, --output <format>",
      "table (the secret alone), json or yaml",
      parseFormat("table", "json", "yaml"),
      "table",
    )
    .action((id, given) => rotateToken(session(), id, given));
  token
    .command("revoke")
    .argument("<ids...>")
    .description("end tokens at once")
    .action((ids) => revokeTokens(session(), ids));
}

function addServerCommands(program: Command, options: CliOptions): void {
  const session = () => open(program, options);
  program
    .command("whoami")
    .description("show who this token is and what it may do")
    .option("-o, --output <format>", "table, json or yaml", parseFormat("table", "json", "yaml"), "table")
    .action((given) => whoAmI(session(), given));
  program
    .command("health")
    .argument("[part]", "a part of the server, such as steward.v1.Supervisor")
    .description("check that the server serves; needs no token")
    .action((part) => checkHealth(session(), part));
  program
    .command("version")
    .description("print the version of this program")
    .action(() => options.screen.write(`steward ${options.version}\n`));
  program
    .command("completion")
    .argument("<shell>", "bash, zsh or fish")
    .description("print a completion script; bash: source <(steward completion bash)")
    .action((shell) => options.screen.write(completionScript(program, shell)));
}

function timeout(): Option {
  return new Option("--timeout <duration>", "how long to wait").argParser(parseDuration).default(60_000, "60s");
}

function open(program: Command, options: CliOptions): Session {
  return {
    ...connect(program.opts<GlobalOptions>(), options.defaults),
    screen: options.screen,
    signal: options.signal,
  };
}

function parseProtocol(text: string): "connect" | "grpc" {
  if (text === "connect" || text === "grpc") return text;
  throw new UsageError(`--protocol is connect or grpc, not ${JSON.stringify(text)}`);
}

function parseStream(text: string): "stdout" | "stderr" {
  if (text === "stdout" || text === "stderr") return text;
  throw new UsageError(`--stream is stdout or stderr, not ${JSON.stringify(text)}`);
}

const exitCodeHelp = `
Exit codes: 0 done, ${exitCodes.failed} failed, ${exitCodes.usage} wrong usage or input, ${exitCodes.notFound} not found, ${exitCodes.denied} not allowed, ${exitCodes.conflict} conflict with what is,
            ${exitCodes.unavailable} server not reachable, ${exitCodes.timeout} timed out.

Examples:
  steward apply -f services.yaml --wait     make it so, and wait until it is
  steward get services                      what runs
  steward events -f                         what happens
  steward history web                       what it was, to go back with steward rollback
  steward logs -f web --tail 20             what it writes`;

const applyHelp = `
A file lists services, each with a name and the fields of its spec:
  set: demo
  services:
    - name: web
      url: http://127.0.0.1:0
      command: [python3, -m, app]
      environment: {DEBUG: "1"}
    - name: elsewhere
      url: https://host:8888
      admin: true
      api_token: super-secret`;
