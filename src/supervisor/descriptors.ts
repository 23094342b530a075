import { closeSync, readdirSync, readFileSync } from "node:fs";

/**
 * Closes every descriptor above 2 that would pass to a service: those which somebody handed to us without
 * close-on-exec. Node's own have the mark. Call it once, first thing. Returns what was closed.
 *
 * `keep` names descriptors that are ours to use, such as Node's channel to its parent or an activated socket; they do
 * pass to children.
 */
export function closeInheritedDescriptors(keep: ReadonlySet<number> = new Set()): number[] {
  const inherited = readdirSync("/proc/self/fd")
    .map(Number)
    .filter((descriptor) => descriptor > 2 && !keep.has(descriptor) && isInheritable(descriptor));
  for (const descriptor of inherited) closeSync(descriptor);
  return inherited;
}

const closeOnExec = 0o2000000;

function isInheritable(descriptor: number): boolean {
  try {
    const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${descriptor}`, "utf8"))?.[1];
    return flags !== undefined && (Number.parseInt(flags, 8) & closeOnExec) === 0;
  } catch {
    return false; // the one that listed the directory: closed by now
  }
}
