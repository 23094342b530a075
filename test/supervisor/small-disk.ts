import { execFileSync } from "node:child_process";
import { closeSync, openSync, rmSync, statfsSync, writeSync } from "node:fs";
import { join } from "node:path";

/** A file system of a few MiB over a directory that exists, to be filled. */
export class SmallDisk {
  readonly #directory: string;
  readonly #filler: string;

  private constructor(directory: string) {
    this.#directory = directory;
    this.#filler = join(directory, "filler");
  }

  /** Undefined: mounting is not allowed here. */
  static mount(directory: string, mebibytes: number): SmallDisk | undefined {
    try {
      execFileSync("mount", ["-t", "tmpfs", "-o", `size=${mebibytes}m,mode=700`, "none", directory], {
        stdio: "ignore",
      });
      return new SmallDisk(directory);
    } catch {
      return undefined;
    }
  }

  get freeBytes(): number {
    const { bavail, bsize } = statfsSync(this.#directory);
    return bavail * bsize;
  }

  /** Fills it, but for so many bytes. */
  fill(butBytes = 0): void {
    const file = openSync(this.#filler, "a");
    try {
      for (const page = Buffer.alloc(4096); this.freeBytes > butBytes; ) writeSync(file, page);
    } catch (error) {
      if (!(error instanceof Error && "code" in error && error.code === "ENOSPC")) throw error;
    } finally {
      closeSync(file);
    }
  }

  free(): void {
    rmSync(this.#filler, { force: true });
  }

  unmount(): void {
    execFileSync("umount", ["-l", this.#directory]);
  }
}
