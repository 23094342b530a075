import { watch } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { runFiles } from "../run-directory.ts";
import { type Question, within, yes } from "./question.ts";

/** The process tells by itself: a line in the file of its run directory that it was given to write to. */
export function notifyQuestion(runDir: string, fd: number): Question {
  return {
    subject: `the line on its descriptor ${fd}`,
    ask: (signal, timeoutMs) =>
      within(signal, timeoutMs, async (limit) => {
        await lineIn(runDir, limit);
        return yes("it said that it is ready");
      }),
  };
}

/** Where the kernel reports nothing, because it watches too much already. */
const lookAgainMs = 1_000;

/** Resolves when there is a line, at once if it was written before. */
async function lineIn(runDir: string, signal: AbortSignal): Promise<void> {
  let changed = Promise.withResolvers<void>();
  const onChange = (): void => changed.resolve();
  const watcher = watchQuietly(runDir, onChange);
  const timer = setInterval(onChange, lookAgainMs);
  signal.addEventListener("abort", onChange, { once: true });
  try {
    while (!(await hasLine(join(runDir, runFiles.notify)))) {
      signal.throwIfAborted();
      await changed.promise;
      changed = Promise.withResolvers();
    }
  } finally {
    watcher?.close();
    clearInterval(timer);
  }
}

function watchQuietly(runDir: string, onChange: () => void): { close(): void } | undefined {
  try {
    return watch(runDir, onChange).on("error", () => undefined);
  } catch {
    return undefined;
  }
}

/** A word to say that it is ready is short; whatever a process writes beyond is not read. */
const longestLine = 4_096;

async function hasLine(path: string): Promise<boolean> {
  const file = await open(path, "r").catch(() => undefined);
  if (file === undefined) return false;
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(longestLine), 0, longestLine, 0);
    return buffer.subarray(0, bytesRead).includes("\n");
  } finally {
    await file.close();
  }
}
