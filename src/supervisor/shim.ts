import { invalid } from "../domain/errors.ts";
import type { Limits } from "../domain/limits.ts";
import type { Account } from "./account.ts";
import { holdTo } from "./rlimits.ts";
import { runFiles } from "./run-directory.ts";

/**
 * What stands between Steward and a service's command, in two POSIX shells of which one remains.
 *
 * The *shim* reads from its standard input what it is to hold, leads the instance's session and group, waits for its one
 * child and writes down how that ended. It runs as Steward, with a fixed environment. Its child becomes the target user
 * and then the *second stage*: a shell that waits at the gate, which is the rest of the same input, for a script with the
 * service's environment, directory and command, and turns into that command. So a service's values meet no process that
 * is still root, and no argument list; and when the gate closes without a script, nothing ran.
 */
export interface ShimRequest {
  readonly runDir: string;
  readonly stdoutPath: string;
  readonly stderrPath: string;
  /** Whom to become; undefined: stay who we are. */
  readonly account: Account | undefined;
  /** The descriptor on which the command tells that it is ready; undefined: none. */
  readonly notifyFd: number | undefined;
  /** What the kernel is to hold each of its processes to. */
  readonly limits: Limits;
}

export interface CommandRequest {
  readonly argv: readonly string[];
  /** Absolute. Undefined: `fallbackCwd` where the user may enter it, else /. */
  readonly cwd: string | undefined;
  readonly fallbackCwd: string;
  /** Exactly what the command gets. */
  readonly environment: ReadonlyMap<string, string>;
  readonly notifyFd: number | undefined;
}

/** What a shim is told, on its standard input, of the instance that it is to hold: one line. What follows is for the gate. */
export function shimWords(request: ShimRequest, shell: string): string {
  const { runDir, stdoutPath, stderrPath, account, limits, notifyFd } = request;
  const words = [
    runDir,
    stdoutPath,
    stderrPath,
    limits.coreBytes === undefined ? "0" : "",
    notifyFd === undefined ? "" : "notify",
    ...holdTo(limits),
    ...(account === undefined ? [] : switchUser(account)),
    shell,
  ];
  return `${words.map(quoteOnOneLine).join(" ")}\n`;
}

/** The script for the gate. Throws invalid_argument for what no process can be given: NUL, odd names, an empty command. */
export function gateScript(request: CommandRequest): Buffer {
  checkRequest(request);
  // One group: the shell reads it whole before it does anything, so half a script runs nothing.
  const lines = [
    "{",
    ...enterDirectory(request),
    ...exportAll(request.environment),
    ...becomeCommand(request),
    "}",
    "",
  ];
  return Buffer.from(lines.join("\n"));
}

/** Where the second stage finds the file for the word of readiness; it hands it on as the descriptor that was asked for. */
const notifyStageFd = 4;

/**
 * Told apart: a status above 128 that the command exited with, and a signal that ended it. Every sh names the signal on
 * its own standard error, which nobody else has here (bash does not in posix mode); only of INT and PIPE none speaks, and
 * 130 and 141 are taken for them, as is custom. The subshell keeps the command's own redirections out of that.
 *
 * The child leaves no core unless it is allowed one, and where Steward is spared when memory runs out, it is not.
 *
 * The record is one short write, so it is there whole or not at all. It goes over blanks that were written before the
 * command began, as everything that is told here does: a disk that fills takes no exit away. Signals to the group are
 * caught, not ignored: the command gets the defaults back.
 */
const shimText = `# holds one instance of a service and records how it ended
trap : HUP INT QUIT ILL TRAP ABRT BUS FPE USR1 SEGV USR2 PIPE ALRM TERM XCPU XFSZ VTALRM PROF IO PWR SYS TSTP TTIN TTOU
[ -z "\${BASH_VERSION-}" ] || set +o posix
umask 077
PATH=/usr/sbin:/usr/bin:/sbin:/bin
n='
'
IFS= read -r words || exit 125
eval "set -- $words"
d=$1 out=$2 err=$3 core=$4 notify=$5
shift 5
for file in ${runFiles.notes} ${runFiles.stage} ${runFiles.exit}; do printf '%127s\\n' '' >"$d/$file" || exit 125; done
exec 2<>"$d/${runFiles.notes}"
mkfifo "$d/${runFiles.alive}" || exit 125
exec 3<>"$d/${runFiles.alive}" 4>>"$out" 5>>"$err" 6<>"$d/${runFiles.stage}"
(
  [ -z "$core" ] || ulimit -c "$core"
  read -r spared </proc/self/oom_score_adj
  [ "$spared" -ge 0 ] || echo 0 >/proc/self/oom_score_adj
  exec >&4 2>&5 3>&6 5>&- 6>&-
  if [ -n "$notify" ]; then exec ${notifyStageFd}>>"$d/${runFiles.notify}"; else exec ${notifyStageFd}>&-; fi
  exec "$@"
)
c=$? k=code
read -r note <"$d/${runFiles.notes}"
if [ $c -gt 128 ] && [ -n "$note" ]; then k=signal; fi
case $c in 130 | 141) k=signal ;; esac
[ $k = code ] || c=$((c - 128))
echo "$k $c" 1<>"$d/${runFiles.exit}"
exit 0`;

/**
 * The arguments of the shell that becomes a shim: the same for every instance, so that it can be started before anybody needs it. `place` is for people
 * who look at the processes of a machine: the directory of the server that it belongs to.
 */
export function shimArguments(place: string): string[] {
  return ["-c", shimText, "steward", place];
}

const setpriv = "/usr/bin/setpriv";

/** What to put before a command so that it runs as the account, with its groups and no way back; it execs in place. */
export function switchUser(account: Account): [string, ...string[]] {
  const ids = [`--reuid=${account.uid}`, `--regid=${account.gid}`];
  return [setpriv, ...ids, "--init-groups", "--no-new-privs", "--"];
}

function enterDirectory({ cwd, fallbackCwd }: CommandRequest): string[] {
  const enter = (directory: string) => `cd -P ${quote(directory)} 2>/dev/null`;
  return [
    "echo go >&3",
    reportAs("cwd"),
    cwd === undefined ? `${enter(fallbackCwd)} || cd /` : `${enter(cwd)} || exit 126`,
    "umask 027",
  ];
}

/** Descriptor 3 leads to the stage record, which only Steward reads; it closes when the command takes over. */
function reportAs(stage: "cwd" | "environment" | "exec"): string {
  return `trap 'echo "${stage} $?" >&3' EXIT`;
}

function exportAll(environment: ReadonlyMap<string, string>): string[] {
  const exports = [...environment].map(([name, value]) => `export ${name}=${quote(value)}`);
  return [
    reportAs("environment"),
    "unset LC_ALL PWD OLDPWD SHLVL _",
    // For looking up the command only; not exported, because it was not in this shell's environment.
    ...(environment.has("PATH") ? [] : [`PATH=${defaultPath}`]),
    ...exports,
  ];
}

/** Where a bare command is looked for when its environment has no PATH. */
export const defaultPath = "/usr/local/bin:/usr/bin:/bin";

/** bash as sh drops the exit trap at exec and puts SHLVL back, so it looks the command up first and leaves SHLVL to env. */
function becomeCommand({ argv, environment, notifyFd }: CommandRequest): string[] {
  const keepsLevel = environment.has("SHLVL") ? [] : ['set -- /usr/bin/env -u SHLVL "$@"'];
  return [
    reportAs("exec"),
    `set -- ${argv.map(quote).join(" ")}`,
    'if [ -n "${BASH_VERSION-}" ]; then',
    'command -v "$1" >/dev/null 2>&1 || { [ ! -e "$1" ] || exit 126; exit 127; }',
    ...keepsLevel,
    "fi",
    `exec "$@" </dev/null ${handOver(notifyFd)}`,
  ];
}

/** The command gets the descriptor that it asked for and no other. */
function handOver(notifyFd: number | undefined): string {
  if (notifyFd === undefined || notifyFd === notifyStageFd) return "3>&-";
  return `3>&- ${notifyFd}>&${notifyStageFd} ${notifyStageFd}>&-`;
}

/** As one word of a POSIX shell, whatever it holds but NUL. */
export function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** The shim has a line break in $n. */
function quoteOnOneLine(text: string): string {
  return quote(text).replaceAll("\n", `'"$n"'`);
}

const variableName = /^[A-Za-z_][A-Za-z0-9_]*$/;

function checkRequest({ argv, cwd, environment }: CommandRequest): void {
  const [command] = argv;
  if (command === undefined || command === "" || command.startsWith("-")) {
    throw invalid({
      field: "service.spec.managed.command",
      description: "must begin with the name or path of a program",
    });
  }
  if (argv.some(hasNul)) throw invalid({ field: "service.spec.managed.command", description: "may not contain NUL" });
  if (cwd !== undefined && (!cwd.startsWith("/") || hasNul(cwd))) {
    throw invalid({ field: "service.spec.managed.cwd", description: "must be an absolute path" });
  }
  for (const [name, value] of environment) {
    if (!variableName.test(name) || hasNul(value)) {
      throw invalid({
        field: "service.spec.managed.environment",
        description: `${JSON.stringify(name)} cannot be a variable`,
      });
    }
  }
}

export function hasNul(text: string): boolean {
  return text.includes("\0");
}
