import type pg from "pg";
import type { Caller, Event } from "../domain/event.ts";
import type { Service } from "../domain/service.ts";
import { AskedTogether } from "./asked-together.ts";
import { lostRow } from "./head.ts";
import { decodeEventBody, decodeService, type Json, type ServiceImage } from "./json.ts";
import { query } from "./postgres.ts";

interface EventRow {
  readonly revision: bigint;
  readonly index: number;
  readonly time: Date;
  readonly node: string;
  readonly service: string | null;
  readonly service_uid: string | null;
  readonly generation: bigint | null;
  readonly actor: string;
  readonly request_id: string | null;
  readonly message: string;
  readonly body: Json<Event["body"]> & { readonly caller?: Caller };
  readonly after: ServiceImage | null;
}

/** Reading the log. */
export class EventRows {
  readonly #pool: pg.Pool;
  readonly #bounds = new AskedTogether(async () => {
    const bounds = await this.#readBounds();
    return () => bounds;
  });

  constructor(pool: pg.Pool) {
    this.#pool = pool;
  }

  /** The next `limit` events after `revision` and the rest of the last one's revision: whole revisions, in order. */
  async readAfter(revision: bigint, limit: number): Promise<Event[]> {
    const rows = await query<EventRow>(
      this.#pool,
      `SELECT * FROM events WHERE revision > $1 AND revision <=
         (SELECT max(revision) FROM (SELECT revision FROM events WHERE revision > $1 ORDER BY revision, index LIMIT $2) AS page)
       ORDER BY revision, index`,
      [revision, limit],
      "events after",
    );
    return rows.map(decodeEvent);
  }

  /** The newest `limit` events before `revision`, newest first. */
  async readBefore(revision: bigint, limit: number): Promise<Event[]> {
    const rows = await query<EventRow>(
      this.#pool,
      "SELECT * FROM events WHERE revision < $1 ORDER BY revision DESC, index DESC LIMIT $2",
      [revision, limit],
      "events before",
    );
    return rows.map(decodeEvent);
  }

  /** The events that a transaction of just now has written, found by its mark. */
  async ofTransaction(mark: string): Promise<Event[]> {
    const rows = await query<EventRow>(
      this.#pool,
      "SELECT * FROM events WHERE mark = $1 AND revision > (SELECT head - 10000 FROM store) ORDER BY index",
      [mark],
    );
    return rows.map(decodeEvent);
  }

  /** The newest revision, and the oldest one that a reader can resume after; asked once for all who begin to read now. */
  bounds(): Promise<{ head: bigint; oldest: bigint }> {
    return this.#bounds.ask(undefined);
  }

  async #readBounds(): Promise<{ head: bigint; oldest: bigint }> {
    const [row] = await query<{ head: bigint; compacted: bigint }>(
      this.#pool,
      "SELECT head, compacted FROM store",
      [],
      "bounds",
    );
    if (row === undefined) throw lostRow();
    return { head: row.head, oldest: row.compacted };
  }
}

/** What was removed was stamped no more: its removal is the last transaction that changed it. */
function decodeAfter({ revision, body }: EventRow, image: ServiceImage): Service {
  const service = decodeService(image);
  return body.type === "service_deleted" ? { ...service, revision } : service;
}

function decodeEvent(row: EventRow): Event {
  const { caller, ...body } = row.body;
  return {
    revision: row.revision,
    index: row.index,
    time: row.time,
    node: row.node,
    service:
      row.service === null || row.service_uid === null
        ? undefined
        : { name: row.service, uid: row.service_uid, generation: Number(row.generation ?? 0) },
    actor: row.actor,
    requestId: row.request_id ?? undefined,
    caller,
    message: row.message,
    body: decodeEventBody(body),
    after: row.after === null ? undefined : decodeAfter(row, row.after),
  };
}
