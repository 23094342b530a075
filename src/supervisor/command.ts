import { access, constants, stat } from "node:fs/promises";
import { isAbsolute, join, resolve } from "node:path";
import { invalid } from "../domain/errors.ts";
import type { Account } from "./account.ts";
import { defaultPath, hasNul, quote, switchUser } from "./shim.ts";
import { runTool } from "./spawn.ts";

export interface CommandQuery {
  readonly command: string;
  /** Absolute. Undefined: Steward's own directory, as at a launch. */
  readonly cwd: string | undefined;
  /** The PATH that the command will have; undefined: none. */
  readonly path: string | undefined;
  /** With whose rights; undefined: our own. */
  readonly account: Account | undefined;
}

/**
 * The program that the command stands for, found the way the service's own start will: a bare name on its PATH, a path
 * with a slash from its directory, and with the rights of its user. Throws invalid_argument that names the field: a
 * directory that cannot be entered, a command that does not exist or may not be executed.
 *
 * A launch takes no such look, its exit tells the same; this is for an answer before one. For another user it costs a
 * process.
 */
export async function resolveCommand(query: CommandQuery): Promise<string> {
  if (hasNul(query.command) || query.command === "") throw notFound(query.command);
  const finding = await (query.account === undefined ? look(query) : lookAs(query.account, query));
  return judge(query, finding);
}

/** Where a command may be, in the order of looking. An empty entry of PATH is the working directory. */
export function candidates(command: string, path: string | undefined): string[] {
  const directories = command.includes("/") ? [""] : (path ?? defaultPath).split(":");
  return directories.map((directory) => {
    const place = join(directory, command);
    return isAbsolute(place) ? place : `./${place}`;
  });
}

interface Finding {
  readonly word: "found" | "refused" | "missing" | "cwd";
  readonly path: string;
}

async function look({ command, cwd, path }: CommandQuery): Promise<Finding> {
  if (cwd !== undefined && !(await mayEnter(cwd))) return { word: "cwd", path: "" };
  let refused: string | undefined;
  for (const candidate of candidates(command, path)) {
    const place = resolve(cwd ?? process.cwd(), candidate);
    const file = await stat(place).catch(() => undefined);
    if (file?.isFile() && (await mayExecute(place))) return { word: "found", path: candidate };
    if (file !== undefined) refused = candidate;
  }
  return refused === undefined ? { word: "missing", path: "" } : { word: "refused", path: refused };
}

async function mayEnter(directory: string): Promise<boolean> {
  const found = await stat(directory).catch(() => undefined);
  return found !== undefined && found.isDirectory() && (await mayExecute(directory));
}

function mayExecute(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

/** Asks a shell that already is the user, so PATH and directory of the service meet nobody else. */
async function lookAs(account: Account, { command, cwd, path }: CommandQuery): Promise<Finding> {
  const [switcher, ...args] = switchUser(account);
  const enter = (directory: string) => `cd -P ${quote(directory)} 2>/dev/null`;
  const script = [
    "{",
    cwd === undefined ? `${enter(process.cwd())} || cd /` : `${enter(cwd)} || { printf 'cwd '; exit; }`,
    "seen=",
    `for p in ${candidates(command, path).map(quote).join(" ")}; do`,
    `  if [ -f "$p" ] && [ -x "$p" ]; then printf 'found %s' "$p"; exit; fi`,
    `  [ ! -e "$p" ] || seen=$p`,
    "done",
    `if [ -n "$seen" ]; then printf 'refused %s' "$seen"; else printf 'missing '; fi`,
    "}",
    "",
  ].join("\n");
  const { output, errorOutput } = await runTool(switcher, [...args, "/bin/sh"], { input: script });
  const [, word, place = ""] = /^(found|refused|missing|cwd) ([^]*)$/.exec(output) ?? [];
  if (word === "found" || word === "refused" || word === "missing" || word === "cwd") return { word, path: place };
  throw new Error(`looking for ${JSON.stringify(command)} as ${account.name} gave no answer: ${errorOutput}`);
}

function judge({ command, cwd, account }: CommandQuery, { word, path }: Finding): string {
  const who = account === undefined ? "" : ` by user ${account.name}`;
  switch (word) {
    case "found":
      return path;
    case "refused":
      throw wrong("command", `${JSON.stringify(path)} may not be executed${who}`);
    case "missing":
      throw notFound(command);
    case "cwd":
      throw wrong("cwd", `${JSON.stringify(cwd)} cannot be entered${who}`);
  }
}

function notFound(command: string): Error {
  return wrong("command", `no program ${JSON.stringify(command)} is found`);
}

function wrong(field: "command" | "cwd", description: string): Error {
  return invalid({ field: `service.spec.managed.${field}`, description });
}
