/**
 * What a watch promises, held against what a watcher was told. Pure: the truth is the event log as it was at the end, whoever recorded may be anybody.
 * It shares no code with the server: what must follow from the log is worked out anew here.
 */

/** A service as the log or a watcher knows it, as far as it is compared. */
export interface SeenService {
  readonly name: string;
  readonly uid: string;
  readonly revision: bigint;
  readonly kind: string;
  readonly wish: string;
  readonly generation: bigint;
  readonly state: string;
  readonly ready: boolean;
  readonly pid: number;
  readonly instanceId: string;
  readonly setName: string;
  readonly labels: Readonly<Record<string, string>>;
}

/** An event as the log or a watcher knows it, as far as it is compared. */
export interface SeenEvent {
  readonly revision: bigint;
  readonly index: number;
  readonly type: string;
  readonly service: string;
  readonly serviceUid: string;
  readonly generation: bigint;
  readonly actor: string;
  readonly requestId: string;
  readonly node: string;
  readonly message: string;
}

export interface LoggedEvent extends SeenEvent {
  /** Of a deleted service as it was last. */
  readonly after: SeenService | undefined;
  /** About how large it is as a message, its service included. */
  readonly bytes: number;
}

export interface SeenChange {
  readonly type: "snapshot" | "changed" | "gone";
  readonly service: SeenService;
}

/** What was watched, in the words of the test: the server was asked for the same in its own. */
export type Watched =
  | {
      readonly of: "events";
      readonly matches: (event: SeenEvent) => boolean;
      /** Whether each event came with its service. */
      readonly withServices: boolean;
    }
  | { readonly of: "services"; readonly matches: (service: SeenService) => boolean };

export type ToldMessage = { readonly cursor: bigint | undefined } & (
  | { readonly kind: "opened"; readonly head: bigint }
  | { readonly kind: "events"; readonly events: readonly (SeenEvent & { readonly after: SeenService | undefined })[] }
  | { readonly kind: "changes"; readonly changes: readonly SeenChange[] }
  | { readonly kind: "snapshotEnd" }
  | { readonly kind: "progress" }
);

/** One stream from its opening to its end, whatever ended it. */
export interface ToldStream {
  /** The cursor that was asked for; undefined: none. */
  readonly after: bigint | undefined;
  readonly messages: readonly ToldMessage[];
  /** The reason that the server gave for the end; undefined: the connection broke, or the watcher left. */
  readonly end: string | undefined;
}

export interface Recording {
  readonly watcher: string;
  readonly watched: Watched;
  readonly streams: readonly ToldStream[];
}

/** What a List with a filter showed. */
export interface SeenList {
  readonly lister: string;
  readonly revision: bigint;
  readonly matches: (service: SeenService) => boolean;
  readonly services: readonly SeenService[];
}

export type Promised =
  /** Events come by revision and index, a snapshot by name. */
  | "Ordered"
  /** Nothing comes twice. */
  | "Unique"
  /** Nothing is left out. */
  | "Reliable"
  /** A revision comes whole. */
  | "Atomic"
  /** A stream goes on right behind the cursor that it was asked for. */
  | "Resumable"
  /** What has a cursor at or above it does not come later, and cursors do not go back. */
  | "Bookmarkable"
  /** What matches is told, what does not is not, and what stops matching is told as gone. */
  | "Filtered"
  /** Snapshot and changes together are what a List shows at that revision. */
  | "Seamless"
  /** What is told is what is in the log. */
  | "True"
  /** A stream begins by saying that it stands. */
  | "Opened"
  /** It ends for a good reason. */
  | "Ended";

export interface Broken {
  readonly promise: Promised;
  readonly who: string;
  readonly what: string;
}

/** A revision of more than that may come in several messages. A little less than the server's own bound: sizes are estimates. */
const splitBytes = 1_000_000;

/** Reasons that pass: the watcher comes back and resumes. */
const goodEnds: ReadonlySet<string> = new Set(["STORE_UNAVAILABLE", "SERVER_DRAINING", "STREAM_MAX_AGE"]);

/** The event log as it was in the end, and what follows from it. Throws if it is no log: revisions are dense and their indexes, too. */
export class Log {
  readonly events: readonly LoggedEvent[];
  readonly head: bigint;
  readonly #states: ReadonlyMap<string, SeenService>[] = [new Map()];
  readonly #byRevision = new Map<bigint, LoggedEvent[]>();

  constructor(events: readonly LoggedEvent[]) {
    let [revision, index] = [0n, 0];
    for (const event of events) {
      const follows =
        event.revision === revision ? event.index === index + 1 : event.revision === revision + 1n && event.index === 0;
      if (!follows) throw new Error(`the log has ${event.revision}.${event.index} after ${revision}.${index}`);
      [revision, index] = [event.revision, event.index];
      const others = this.#byRevision.get(revision);
      if (others === undefined) this.#byRevision.set(revision, [event]);
      else others.push(event);
    }
    this.events = events;
    this.head = revision;
  }

  of(revision: bigint): readonly LoggedEvent[] {
    return this.#byRevision.get(revision) ?? [];
  }

  /** The services that there were right after a revision, by uid. */
  servicesAt(revision: bigint): ReadonlyMap<string, SeenService> {
    for (let next = this.#states.length; next <= Number(revision); next++) {
      const services = new Map(this.#states[next - 1]);
      for (const { type, after, serviceUid } of this.of(BigInt(next))) {
        if (type === "service_deleted") services.delete(serviceUid);
        else if (after !== undefined) services.set(after.uid, after);
      }
      this.#states.push(services);
    }
    return this.#states[Number(revision)] ?? new Map();
  }

  mayBeSplit(revision: bigint): boolean {
    return this.of(revision).reduce((sum, { bytes }) => sum + bytes, 0) > splitBytes;
  }
}

/** Every promise that was not kept, by one entry or more; none: all were. */
export function brokenPromises(
  log: Log,
  { recordings, lists }: { readonly recordings: readonly Recording[]; readonly lists: readonly SeenList[] },
): Broken[] {
  return [
    ...recordings.flatMap((recording) =>
      recording.streams.flatMap((stream, index) => {
        const of =
          recording.watched.of === "events" ? eventTelling(recording.watched) : serviceTelling(recording.watched);
        return new Hearing(log, of, stream).broken.map(({ promise, what }) => ({
          promise,
          who: `${recording.watcher}, stream ${index + 1}`,
          what,
        }));
      }),
    ),
    ...lists.flatMap((list) => brokenByList(log, list)),
  ];
}

function brokenByList(log: Log, { lister, revision, matches, services }: SeenList): Broken[] {
  if (revision > log.head) return [{ promise: "True", who: lister, what: `it is of revision ${revision}` }];
  const expected = [...log.servicesAt(revision).values()].filter(matches);
  return differences(expected, services).map((what) => ({
    promise: "Seamless",
    who: lister,
    what: `at revision ${revision}: ${what}`,
  }));
}

/** One thing that a stream must tell, at its place in the order of all that it must tell. */
interface Due {
  readonly key: string;
  readonly revision: bigint;
  readonly place: number;
  /** It may be left out: the server cannot know whether this watcher was ever shown it. */
  readonly isOptional: boolean;
  /** What is broken if it is left out. */
  readonly missing: Promised;
}

type NewDue = Omit<Due, "place">;

/** What of the log concerns one kind of watcher. */
interface Telling {
  /** All that a stream must tell after a revision. */
  due(log: Log, after: bigint, resumed: boolean): NewDue[];
  keysOf(message: ToldMessage): readonly string[];
  /** What a thing is that a stream told though it must not. */
  undue(log: Log, key: string, after: bigint): Promised;
  readonly snapshot: ((services: Iterable<SeenService>) => SeenService[]) | undefined;
}

function eventTelling({ matches, withServices }: Watched & { of: "events" }): Telling {
  const shown = (event: LoggedEvent) => eventKey(event, withServices && event.type !== "service_deleted");
  return {
    due: (log, after) =>
      log.events
        .filter((event) => event.revision > after && matches(event))
        .map((event) => ({ key: shown(event), revision: event.revision, isOptional: false, missing: "Reliable" })),
    keysOf: (message) =>
      message.kind === "events" ? message.events.map((event) => eventKey(event, event.after !== undefined)) : [],
    undue(log, key, after) {
      const logged = log.events.find((event) => shown(event) === key);
      if (logged === undefined) return "True";
      return logged.revision <= after ? "Resumable" : "Filtered";
    },
    snapshot: undefined,
  };
}

function serviceTelling({ matches }: Watched & { of: "services" }): Telling {
  return {
    due: (log, after, resumed) => dueChanges(log, matches, after, resumed),
    keysOf: (message) => (message.kind === "changes" ? message.changes.map(changeKey) : []),
    undue(log, key, after) {
      const change = JSON.parse(key) as { readonly service: unknown };
      const text = JSON.stringify(change.service);
      const logged = log.events.find((event) => event.after !== undefined && textOf(event.after) === text);
      if (logged === undefined) return "True";
      return logged.revision <= after ? "Resumable" : "Filtered";
    },
    snapshot: (services) => [...services].filter(matches).toSorted((a, b) => (a.name < b.name ? -1 : 1)),
  };
}

/** One change for each service of each revision that matches, or did until then. */
function dueChanges(log: Log, matches: (service: SeenService) => boolean, after: bigint, resumed: boolean): NewDue[] {
  // What a watcher that resumes knows is what it must have been told up to there.
  const shown = new Set([...log.servicesAt(after).values()].filter(matches).map(({ uid }) => uid));
  const hidden = new Set<string>();
  const due: NewDue[] = [];
  for (let revision = after + 1n; revision <= log.head; revision++) {
    for (const { service, isNew, isDeleted } of changesOf(log.of(revision))) {
      const { uid } = service;
      if (!isDeleted && matches(service)) {
        due.push({ key: changeKey({ type: "changed", service }), revision, isOptional: false, missing: "Reliable" });
        shown.add(uid);
        continue;
      }
      const wasShown = shown.delete(uid);
      const mayHaveBeenShown = resumed && !isNew && !hidden.has(uid);
      hidden.add(uid);
      if (wasShown || mayHaveBeenShown) {
        const missing = isDeleted ? "Reliable" : "Filtered";
        due.push({ key: changeKey({ type: "gone", service }), revision, isOptional: !wasShown, missing });
      }
    }
  }
  return due;
}

function changesOf(events: readonly LoggedEvent[]) {
  const changes = new Map<string, { service: SeenService; isNew: boolean; isDeleted: boolean }>();
  for (const { type, after } of events) {
    if (after === undefined) continue;
    const before = changes.get(after.uid);
    changes.set(after.uid, {
      service: after,
      isNew: before?.isNew === true || type === "service_created",
      isDeleted: before?.isDeleted === true || type === "service_deleted",
    });
  }
  return changes.values();
}

/** One stream, gone through from its opening to its end. */
class Hearing {
  readonly broken: { promise: Promised; what: string }[] = [];
  readonly #log: Log;
  readonly #of: Telling;
  readonly #stream: ToldStream;
  readonly #resumed: boolean;
  /** Undefined until it is known where the stream begins. */
  #begin: bigint | undefined;
  /** Up to here everything has been told, says the stream. */
  #told = 0n;
  #due = new Map<string, Due>();
  readonly #heard = new Set<string>();
  /** In which message a revision was told of first. */
  readonly #messageOf = new Map<bigint, number>();
  readonly #snapshot: SeenService[] = [];
  /** What the watcher knows, by uid. */
  #known = new Map<string, SeenService>();
  #furthest = -1;

  constructor(log: Log, of: Telling, stream: ToldStream) {
    this.#log = log;
    this.#of = of;
    this.#stream = stream;
    // A watch of services after the place before the first revision knows nothing: it is given a snapshot.
    this.#resumed = stream.after !== undefined && (stream.after > 0n || of.snapshot === undefined);
    for (const [index, message] of stream.messages.entries()) this.#hear(message, index);
    this.#hearNothingMissing();
    if (stream.end !== undefined && !goodEnds.has(stream.end)) this.#break("Ended", `it ended with ${stream.end}`);
  }

  #break(promise: Promised, what: string): void {
    this.broken.push({ promise, what });
  }

  #hear(message: ToldMessage, index: number): void {
    if ((message.kind === "opened") !== (index === 0)) this.#break("Opened", `message ${index + 1} is ${message.kind}`);
    switch (message.kind) {
      case "opened":
        if (message.head > this.#log.head) this.#break("Bookmarkable", `head ${message.head} is in the future`);
        this.#open(message.cursor);
        break;
      case "snapshotEnd":
        this.#endSnapshot(message.cursor);
        break;
      case "events":
      case "changes":
        if (this.#begin === undefined) this.#takeSnapshot(message);
        else this.#takeBatch(message, index);
        break;
      case "progress":
        break;
    }
    if (message.cursor !== undefined) this.#mark(message.cursor, message, index);
  }

  #open(cursor: bigint | undefined): void {
    if (this.#resumed || this.#of.snapshot === undefined) {
      if (cursor === undefined) return this.#break("Opened", "it has no cursor");
      const { after } = this.#stream;
      if (after !== undefined && cursor !== after)
        this.#break("Resumable", `it was asked for after ${after} and stands at ${cursor}`);
      this.#beginAt(after ?? cursor);
    } else if (cursor !== undefined) {
      this.#break("Bookmarkable", "a snapshot that is not complete has a cursor");
    }
  }

  #beginAt(revision: bigint): void {
    this.#begin = revision;
    this.#told = revision;
    const due = this.#of.due(this.#log, revision, this.#resumed);
    this.#due = new Map(due.map((each, place) => [each.key, { ...each, place }]));
    if (this.#of.snapshot === undefined || !this.#resumed) return;
    this.#known = byUid(this.#of.snapshot(this.#log.servicesAt(revision).values()));
  }

  #takeSnapshot(message: ToldMessage): void {
    if (message.kind !== "changes") return this.#break("Opened", "it tells before it stands");
    for (const { type, service } of message.changes) {
      if (type === "snapshot") this.#snapshot.push(service);
      else this.#break("Seamless", `${type} ${service.name} comes before the end of the snapshot`);
    }
  }

  #endSnapshot(revision: bigint | undefined): void {
    if (this.#begin !== undefined || this.#of.snapshot === undefined || revision === undefined)
      return this.#break("Seamless", "a snapshot ends that did not begin, or nowhere");
    if (revision > this.#log.head) return this.#break("Bookmarkable", `revision ${revision} is in the future`);
    const all = this.#log.servicesAt(revision);
    const names = this.#snapshot.map(({ name }) => name);
    if (new Set(names).size < names.length) this.#break("Unique", `the snapshot has ${names.join(", ")}`);
    else if (names.join() !== names.toSorted().join()) this.#break("Ordered", `the snapshot has ${names.join(", ")}`);
    const expected = this.#of.snapshot(all.values());
    const unfit = this.#snapshot.filter(
      (service) => textOf(all.get(service.uid)) === textOf(service) && !expected.some(({ uid }) => uid === service.uid),
    );
    for (const { name } of unfit) this.#break("Filtered", `the snapshot has ${name}, which does not match`);
    const fit = this.#snapshot.filter((service) => !unfit.includes(service));
    for (const what of differences(expected, fit))
      this.#break("Seamless", `the snapshot of revision ${revision}: ${what}`);
    this.#beginAt(revision);
    this.#known = byUid(this.#snapshot);
  }

  #takeBatch(message: ToldMessage, batch: number): void {
    for (const key of this.#of.keysOf(message)) this.#take(key, message.cursor ?? this.#told, batch);
  }

  #take(key: string, cursor: bigint, batch: number): void {
    const due = this.#due.get(key);
    if (due === undefined) return this.#break(this.#undue(key), `it tells ${key}`);
    if (this.#heard.has(key)) return this.#break("Unique", `it tells again ${key}`);
    this.#heard.add(key);
    const first = this.#messageOf.get(due.revision) ?? batch;
    this.#messageOf.set(due.revision, first);
    if (!this.#log.mayBeSplit(due.revision) && (first !== batch || due.revision > cursor))
      return this.#break("Atomic", `it tells a part of ${due.revision}: ${key}`);
    if (due.revision <= this.#told) this.#break("Bookmarkable", `it tells after its cursor ${this.#told}: ${key}`);
    else if (due.place < this.#furthest) this.#break("Ordered", `it tells too late ${key}`);
    this.#furthest = Math.max(this.#furthest, due.place);
  }

  #undue(key: string): Promised {
    const promise = this.#of.undue(this.#log, key, this.#begin ?? 0n);
    return promise === "Resumable" && !this.#resumed ? "Seamless" : promise;
  }

  #mark(cursor: bigint, message: ToldMessage, index: number): void {
    if (cursor > this.#log.head) this.#break("Bookmarkable", `its cursor ${cursor} is in the future`);
    if (cursor < this.#told) this.#break("Bookmarkable", `its cursor goes back from ${this.#told} to ${cursor}`);
    else this.#told = cursor;
    if (message.kind !== "changes" && message.kind !== "events" && message.kind !== "progress") return;
    this.#compare(index);
  }

  /** That what the watcher has put together is what there was; where something else is broken already it tells nothing new. */
  #compare(index: number): void {
    const { snapshot } = this.#of;
    if (snapshot === undefined || this.broken.length > 0) return;
    const message = this.#stream.messages[index];
    if (message?.kind === "changes") {
      for (const { type, service } of message.changes) {
        if (type === "gone") this.#known.delete(service.uid);
        else this.#known.set(service.uid, service);
      }
    }
    const isWhole = [...this.#heard].every((key) => (this.#due.get(key)?.revision ?? 0n) <= this.#told);
    if (!isWhole || this.#missing().length > 0) return;
    const expected = snapshot(this.#log.servicesAt(this.#told).values());
    for (const what of differences(expected, [...this.#known.values()]))
      this.#break("Seamless", `what it told up to ${this.#told} does not amount to what there was: ${what}`);
  }

  #missing(): Due[] {
    return [...this.#due.values()].filter(
      ({ key, revision, isOptional }) => revision <= this.#told && !isOptional && !this.#heard.has(key),
    );
  }

  #hearNothingMissing(): void {
    const first = Math.min(...[...this.#heard].map((key) => this.#due.get(key)?.place ?? Number.POSITIVE_INFINITY));
    for (const { key, place, missing, revision } of this.#missing()) {
      const promise = missing === "Reliable" && this.#resumed && place < first ? "Resumable" : missing;
      this.#break(promise, `it told everything up to ${this.#told}, but not of ${revision}: ${key}`);
    }
  }
}

function byUid(services: readonly SeenService[]): Map<string, SeenService> {
  return new Map(services.map((service) => [service.uid, service]));
}

/** How services differ from what they should be; their order does not matter. */
function differences(expected: readonly SeenService[], actual: readonly SeenService[]): string[] {
  const [wanted, there] = [new Map(expected.map(entryOf)), new Map(actual.map(entryOf))];
  const missing = [...wanted].filter(([uid]) => !there.has(uid)).map(([, text]) => `missing: ${text}`);
  const wrong = [...there]
    .filter(([uid, text]) => wanted.get(uid) !== text)
    .map(([uid, text]) => `${text} instead of ${wanted.get(uid) ?? "nothing"}`);
  return [...missing, ...wrong];
}

function entryOf(service: SeenService): [string, string] {
  return [service.uid, textOf(service)];
}

function eventKey({ after, ...event }: SeenEvent & { readonly after: SeenService | undefined }, withService: boolean) {
  const { revision, index, type, service, serviceUid, generation, actor, requestId, node, message } = event;
  const shown = withService && after !== undefined ? [textOf(after)] : [];
  return JSON.stringify([
    `${revision}.${index}`,
    ...[type, service, serviceUid, String(generation), actor, requestId, node, message],
    ...shown,
  ]);
}

function changeKey({ type, service }: SeenChange): string {
  return `{"type":${JSON.stringify(type)},"service":${textOf(service)}}`;
}

const texts = new WeakMap<SeenService, string>();

/** Equal for equal services. */
function textOf(service: SeenService | undefined): string {
  if (service === undefined) return "nothing";
  const known = texts.get(service);
  if (known !== undefined) return known;
  const { name, uid, revision, kind, wish, generation, state, ready, pid, instanceId, setName } = service;
  const labels = Object.entries(service.labels).sort(([a], [b]) => (a < b ? -1 : 1));
  const text = JSON.stringify({
    ...{ name, uid, revision: String(revision), kind, wish, generation: String(generation) },
    ...{ state, ready, pid, instanceId, setName, labels: Object.fromEntries(labels) },
  });
  texts.set(service, text);
  return text;
}
