import type { Screen } from "../../src/cli/print.ts";

/** A screen that remembers. */
export class TestScreen implements Screen {
  readonly colours: boolean;
  out = "";
  error = "";

  constructor({ colours = false } = {}) {
    this.colours = colours;
  }

  write(text: string | Uint8Array): void {
    this.out += Buffer.from(text as Uint8Array).toString();
  }

  writeError(text: string | Uint8Array): void {
    this.error += Buffer.from(text as Uint8Array).toString();
  }
}
