import { shimArguments } from "./shim.ts";
import { type Spawned, spawnDetached } from "./spawn.ts";

/** How long nothing was started before a shim is forked ahead: a fork holds up whoever is at work. */
const calmMs = 50;

/**
 * Where instances get their shims. One is forked ahead, so that what replaces a process that crashed need not wait for a fork, which takes the longer
 * the larger we are. It knows nothing of any service, waits for its words, and ends with us.
 */
export class Shims {
  /** A POSIX shell: dash, busybox and bash are known to do. */
  readonly shell: string;
  readonly #place: string;
  #ahead: Spawned | undefined;
  #calm: NodeJS.Timeout | undefined;

  /** `place`: what their command lines show for whom they are, the state directory. */
  constructor({ place, shell = "/bin/sh" }: { readonly place: string; readonly shell?: string | undefined }) {
    this.#place = place;
    this.shell = shell;
  }

  /** From now on one is kept ready. */
  start(): void {
    this.#calm = setTimeout(() => this.#forkAhead(), calmMs).unref();
  }

  /** One that nobody else has. Throws when the system refuses a process. */
  take(): Spawned {
    const taken = this.#ahead ?? this.#fork();
    this.#ahead = undefined;
    this.#calm?.refresh();
    return taken;
  }

  async stop(): Promise<void> {
    clearTimeout(this.#calm);
    this.#calm = undefined;
    this.#ahead?.input.destroy();
    await this.#ahead?.ended;
  }

  #fork(): Spawned {
    return spawnDetached(this.shell, shimArguments(this.#place));
  }

  #forkAhead(): void {
    try {
      this.#ahead ??= this.#fork();
    } catch {
      return; // what is to be started will be told
    }
    const { ended } = this.#ahead;
    void ended.then(() => {
      if (this.#ahead?.ended === ended) this.#ahead = undefined;
    });
  }
}
