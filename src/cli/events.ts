import { timestampDate } from "@bufbuild/protobuf/wkt";
import { type Event, EventSchema, type EventType } from "../../gen/steward/v1/event_pb.ts";
import type { Session } from "./command.ts";
import { UsageError } from "./failure.ts";
import { type OutputFormat, paint, printDocument, printLine, printList, type Screen } from "./print.ts";
import { eventWord } from "./words.ts";

export interface EventOptions {
  readonly follow?: boolean;
  readonly since?: string;
  readonly tail: number;
  readonly filter?: string;
  readonly output: OutputFormat;
}

/** `steward events [NAME]`: the last events, or with -f what happens from now on (or from a cursor), over reconnects without gap or duplicate. */
export async function showEvents(session: Session, name: string | undefined, options: EventOptions): Promise<void> {
  const filter = joinFilters(name, options.filter);
  const after = options.since === undefined ? undefined : parseCursor(options.since);
  if (options.follow !== true) return listEvents(session, filter, after, options);
  if (after === undefined && options.tail > 0) {
    const { events, cursor } = await session.supervisor.listEvents(
      { filter, tail: options.tail },
      { signal: session.signal },
    );
    for (const event of events) show(session.screen, options.output, event);
    return followEvents(session, filter, cursor, options.output);
  }
  return followEvents(session, filter, after, options.output);
}

/** One event on one line, with who caused it. */
export function eventLine(screen: Screen, event: Event): string {
  const time = event.time === undefined ? "-" : timestampDate(event.time).toISOString();
  const what = eventWord(event.type).padEnd(18);
  const revision = `${event.revision}.${event.index}`.padStart(7);
  return `${paint(screen, "dim", `${revision} ${time}`)} ${paintEvent(screen, event.type, what)} ${event.service} ${paint(screen, "dim", `${event.message} (${causeOf(event)})`)}`;
}

function causeOf({ actor, peer }: Event): string {
  return peer === "" ? `by ${actor}` : `by ${actor} from ${peer}`;
}

interface CursorInit {
  readonly storeUid: string;
  readonly revision: bigint;
}

async function listEvents(
  session: Session,
  filter: string,
  after: CursorInit | undefined,
  options: EventOptions,
): Promise<void> {
  const events =
    after === undefined ? await lastEvents(session, filter, options.tail) : await eventsAfter(session, filter, after);
  if (options.output === "json" || options.output === "yaml")
    return printList(session.screen, options.output, EventSchema, events);
  for (const event of events) session.screen.write(`${eventLine(session.screen, event)}\n`);
}

async function lastEvents(session: Session, filter: string, tail: number): Promise<Event[]> {
  if (tail === 0) return [];
  return (await session.supervisor.listEvents({ filter, tail }, { signal: session.signal })).events;
}

async function eventsAfter(session: Session, filter: string, after: CursorInit): Promise<Event[]> {
  const events: Event[] = [];
  let pageToken = "";
  do {
    const request = { filter, after, pageToken, pageSize: 1_000 };
    const page = await session.supervisor.listEvents(request, { signal: session.signal });
    events.push(...page.events);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  return events;
}

/** Goes on over interruptions until Ctrl-C; fails when something was missed for good. */
async function followEvents(
  session: Session,
  filter: string,
  after: CursorInit | undefined,
  output: OutputFormat,
): Promise<void> {
  const request = after === undefined ? { filter } : { filter, after };
  const updates = session.watchEvents(request, {
    signal: session.signal,
    onInterrupted: ({ message }) => session.screen.writeError(`the stream ended (${message}), resuming\n`),
  });
  for await (const update of updates) {
    if (update.kind === "gap") throw update.error;
    if (update.kind === "events") for (const event of update.events) show(session.screen, output, event);
  }
}

function show(screen: Screen, output: OutputFormat, event: Event): void {
  if (output === "json") printLine(screen, EventSchema, event);
  else if (output === "yaml") printDocument(screen, EventSchema, event);
  else screen.write(`${eventLine(screen, event)}\n`);
}

function joinFilters(name: string | undefined, filter: string | undefined): string {
  const ofService = name === undefined ? [] : [`service = ${JSON.stringify(name)}`];
  return [...ofService, ...(filter === undefined ? [] : [`(${filter})`])].join(" AND ");
}

/** `REVISION` or `STORE:REVISION`, as the server prints cursors. */
function parseCursor(text: string): CursorInit {
  const [, storeUid, revision] = /^(?:([0-9a-fA-F-]{36}):)?(\d{1,18})$/.exec(text) ?? [];
  if (revision === undefined)
    throw new UsageError(`a cursor is REVISION or STORE_UID:REVISION, not ${JSON.stringify(text)}`);
  return { storeUid: storeUid ?? "", revision: BigInt(revision) };
}

function paintEvent(screen: Screen, type: EventType, text: string): string {
  const word = eventWord(type);
  if (/failed|crash|blocked|down|exited/.test(word)) return paint(screen, "red", text);
  if (/ready$|programmed|proxy_up/.test(word) && !word.includes("unready")) return paint(screen, "green", text);
  return text;
}
