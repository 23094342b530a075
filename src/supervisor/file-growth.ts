import { type FSWatcher, statSync, watch } from "node:fs";

/** How long a file is, and when it was last written to. */
export interface Growth {
  readonly size: number;
  /** In milliseconds since 1970. */
  readonly time: number;
}

/**
 * Calls `changed` with the size of a file now, undefined when it is not there, and again whenever that is another. A quiet file costs nothing but a kernel
 * watch; a growing one is looked at every 100 ms, however often it is written. The returned function ends it. Does not
 * keep the server alive.
 */
export function watchGrowth(path: string, changed: (found: Growth | undefined) => void): () => void {
  let watcher: FSWatcher | undefined;
  let timer: NodeJS.Timeout | undefined;
  let size: number | undefined;
  let quietLooks = 0;
  let ended = false;

  const look = () => {
    const now = growthOf(path);
    if (now?.size !== size) {
      size = now?.size;
      quietLooks = 0;
      changed(now);
    } else if (++quietLooks >= quietAfterLooks) {
      return rest();
    }
    schedule(growingPollMs);
  };
  const schedule = (delayMs: number) => {
    clearTimeout(timer);
    if (!ended) timer = setTimeout(look, delayMs).unref();
  };
  const wake = () => {
    watcher?.close();
    watcher = undefined;
    quietLooks = 0;
    look();
  };
  const rest = () => {
    watcher = watchFile(path, wake);
    // Whatever came between the last look and the watch has no event; without a watch we go on looking.
    if (watcher === undefined) schedule(unwatchablePollMs);
    else if (growthOf(path)?.size !== size) wake();
  };

  const first = growthOf(path);
  size = first?.size;
  changed(first);
  rest();
  return () => {
    ended = true;
    clearTimeout(timer);
    watcher?.close();
  };
}

const growingPollMs = 100;
const quietAfterLooks = 10;
/** For a file that is not there yet, and when the system has no watches left. */
const unwatchablePollMs = 500;

export function growthOf(path: string): Growth | undefined {
  const found = statSync(path, { throwIfNoEntry: false });
  return found && { size: found.size, time: Math.floor(found.mtimeMs) };
}

function watchFile(path: string, wake: () => void): FSWatcher | undefined {
  try {
    const watcher = watch(path, { persistent: false }, wake);
    watcher.on("error", wake);
    return watcher;
  } catch {
    return undefined;
  }
}
