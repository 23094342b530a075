import type { OutputOffsets } from "../domain/output-cursor.ts";
import { watchGrowth } from "./file-growth.ts";
import type { OutputBeginning } from "./output-beginning.ts";
import { type OutputStream, StreamReader } from "./output-stream.ts";

/** Without `tailLines`, `since` or `from` it begins at the first kept byte. */
export interface OutputRequest {
  readonly stdoutPath: string;
  readonly stderrPath: string;
  readonly streams: readonly OutputStream[];
  /** Begin this many lines before the end; 0 is the end. */
  readonly tailLines?: number | undefined;
  /** Begin with what was written at that time or later. */
  readonly since?: Date | undefined;
  /** Begin at the place after the last chunk that was seen. What is not kept any more is left out. */
  readonly from?: OutputOffsets | undefined;
  /** Go on with what is written later, until the signal aborts or nothing more will be written. */
  readonly follow: boolean;
  readonly signal: AbortSignal;
  /** Aborts when nothing more will be written. */
  readonly closed?: AbortSignal;
}

/** At most 64 KiB of one stream, ending with a line where that is possible. Any bytes: a service writes what it likes. */
export interface OutputChunk {
  readonly stream: OutputStream;
  /** Of the first byte of data; the next chunk of the stream is at offset + data.length, or later when output was given back. */
  readonly offset: bigint;
  readonly data: Buffer;
  /** When it was written, as exactly as that is known; never before the chunk before. */
  readonly time: Date;
  /** Where reading goes on after it. */
  readonly next: OutputOffsets;
}

/** Reads what a service wrote, both streams in the order of time. Reads as fast as it is consumed and holds 64 KiB of each stream. */
export async function* readOutput(request: OutputRequest): AsyncGenerator<OutputChunk, void, undefined> {
  const { follow, signal, closed = neverAborted } = request;
  const readers = openReaders(request);
  try {
    await Promise.all(readers.map((reader) => reader.open(beginning(request, reader.stream))));
    for (let latest = 0; !signal.aborted; ) {
      const isLastLook = !follow || closed.aborted;
      const reader = await nextToTell(readers);
      if (reader?.piece !== undefined) {
        const { stream, piece } = reader;
        latest = Math.max(latest, piece.time);
        const data = Buffer.from(piece.data);
        reader.take();
        yield { stream, offset: piece.offset, data, time: new Date(latest), next: placeOf(readers) };
      } else if (isLastLook) return;
      else await growth(readers, [signal, closed]);
    }
  } finally {
    await Promise.all(readers.map((reader) => reader.close()));
  }
}

const mostTailBytes = 16 * 1024;

/** The last lines of one stream, of 16 KiB at most; whatever is no text is replaced. */
export async function lastLines(
  paths: Pick<OutputRequest, "stdoutPath" | "stderrPath">,
  stream: OutputStream,
  count: number,
): Promise<string[]> {
  const chunks: Buffer[] = [];
  const request = { ...paths, streams: [stream], tailLines: count, follow: false, signal: neverAborted };
  for await (const { data } of readOutput(request)) {
    chunks.push(data);
    // A line may be of any length: of a long tail only the end is of use.
    while (chunks.length > 1 && chunks.slice(1).reduce((sum, chunk) => sum + chunk.length, 0) >= mostTailBytes)
      chunks.shift();
  }
  const text = Buffer.concat(chunks).subarray(-mostTailBytes).toString("utf8").trimEnd();
  return text === "" ? [] : text.split("\n").slice(-count);
}

const neverAborted = new AbortController().signal;

/** Standard output first: of what was written at the same time it is told first. */
function openReaders({ streams, stdoutPath, stderrPath }: OutputRequest): StreamReader[] {
  const all = [new StreamReader("stdout", stdoutPath), new StreamReader("stderr", stderrPath)];
  return all.filter(({ stream }) => streams.includes(stream));
}

function beginning({ tailLines, since, from }: OutputRequest, stream: OutputStream): OutputBeginning {
  const offset = from?.[stream];
  if (offset !== undefined) return { kind: "offset", offset };
  if (tailLines !== undefined) return { kind: "tail", lines: tailLines };
  return since === undefined ? { kind: "oldest" } : { kind: "since", time: since };
}

/** The reader whose next piece is the oldest; undefined: there is nothing more for now. */
async function nextToTell(readers: readonly StreamReader[]): Promise<StreamReader | undefined> {
  const time = oldest(readers)?.piece?.time ?? Infinity;
  await Promise.all(readers.filter((reader) => reader.isOutdated(time)).map((reader) => reader.look()));
  return oldest(readers);
}

function oldest(readers: readonly StreamReader[]): StreamReader | undefined {
  return readers
    .filter(({ piece }) => piece !== undefined)
    .reduce<StreamReader | undefined>((first, reader) => (isOlder(reader, first) ? reader : first), undefined);
}

function isOlder({ piece }: StreamReader, other: StreamReader | undefined): boolean {
  return (piece?.time ?? Infinity) < (other?.piece?.time ?? Infinity);
}

function placeOf(readers: readonly StreamReader[]): OutputOffsets {
  return Object.fromEntries(readers.map(({ stream, offset }) => [stream, offset]));
}

/** Resolves when one of the files is not as it was when nothing more was found, or when a signal aborts. Between two calls nothing is watched. */
async function growth(readers: readonly StreamReader[], signals: readonly AbortSignal[]): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const wake = (): void => resolve();
  const ends = readers.map(({ path, seenSize }) => watchGrowth(path, (found) => found?.size !== seenSize && wake()));
  for (const signal of signals) {
    if (signal.aborted) wake();
    else signal.addEventListener("abort", wake, { once: true });
  }
  await promise;
  for (const end of ends) end();
  for (const signal of signals) signal.removeEventListener("abort", wake);
}
